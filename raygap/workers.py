"""The processes that train one trial together, over torch.distributed; one process alone needs none of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from raygap.lazy import torch


class Workers:
    """This process's place among those that train a trial: `rank` of `size`.

    Every call below is collective: all workers make it, in the same order. A worker alone gets back what it gave.
    """

    def __init__(self) -> None:
        """Takes rank and size from torch.distributed where a process group is up; else this process is alone."""
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank, self.size = (
            (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
        )

    @property
    def first(self) -> bool:
        """This process fits, writes and reports for all."""
        return self.rank == 0

    def share(self, positions: np.ndarray) -> tuple[np.ndarray, int]:
        """This worker's part of a batch, and how many clips of the batch it stands for.

        A part has at least two clips, for batch normalisation: a lone clip stands twice in it, and a worker for whom
        none is left computes along on a clip that counts for none.
        """
        if self.size == 1:
            return positions, len(positions)
        mine = positions[self.rank :: self.size]
        if len(mine) >= 2:
            return mine, len(mine)
        return np.repeat(mine if len(mine) else positions[:1], 2), len(mine)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def sum_gradients(self, network: torch.nn.Module) -> None:
        """Sum each parameter's gradient over the workers, in one message; all must lack the same ones, if any."""
        if self.size == 1:
            return
        # By hand, not by DistributedDataParallel: methods that take several gradients a step need the sum of each.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def average_buffers(self, network: torch.nn.Module) -> None:
        """Give all workers the mean of their floating-point buffers: the running statistics of batch normalisation.

        Each worker takes them from its own parts of the batches; validation and checkpoints need one network.
        """
        if self.size == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                self.sum(buffer).div_(self.size)

    def interleave(self, parts: list[torch.Tensor], count: int) -> torch.Tensor:
        """All `count` rows, on the CPU, where the parts of worker r hold, one after the other, rows r, r + size, ..."""
        if self.size == 1:
            return torch.cat(parts).cpu()
        everyones: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(everyones, torch.cat(parts).cpu() if parts else None)
        shape = next(rows.shape[1:] for rows in everyones if rows is not None)
        whole = torch.empty((count, *shape))
        for rank, rows in enumerate(everyones):
            if rows is not None:  # fewer clips than workers
                whole[rank :: self.size] = rows
        return whole

    def broadcast(self, value: Any) -> Any:
        """What the first worker gives, on every worker."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]
