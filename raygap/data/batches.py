"""How training reads a store: whole batches, without decoding, pickling or a Python loop over clips."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raygap.config import Augment
from raygap.data.store import Store
from raygap.rng import generator
from raygap.workers import Workers

_Host = tuple[Tensor, ...]
_TORCH_TYPES = {"uint8": torch.uint8, "float16": torch.float16}


@dataclass
class Batch:
    """B clips on the device."""

    index: Tensor
    """int64 (B,): position of each clip within the rows that were asked for."""
    audio: Tensor
    """float32 (B, 1, F, S): spectrograms, standardised with the training clips' mean and deviation."""
    visual: Tensor
    """float32 (B, T, 3, H, W): frames, standardised a channel with the training clips' mean and deviation."""
    labels: Tensor
    """int64 (B,)."""
    clips: int
    """How many clips of the whole batch these stand for (Workers.share); B for a worker alone."""
    whole: int
    """Clips of the whole batch, over all workers."""


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of `count` positions, int64."""
    return generator(seed, "order", epoch).permutation(count)


def batches(
    store: Store,
    rows: np.ndarray,
    *,
    batch_size: int,
    order: np.ndarray,
    device: torch.device,
    augment: Augment | None,
    seed: int,
    epoch: int,
    workers: Workers | None = None,
) -> Iterator[Batch]:
    """Batches of the clips `rows[order]`, in that order; the last one may be smaller, or one clip larger.

    `rows` are rows of the store, (n,); `order` holds positions within `rows` and may be a part of them (a filtered
    subset). `augment` None leaves the frames as they are. What happens to a clip depends on seed, epoch and its
    position alone: not on batch_size, nor on which other clips are read. With `workers`, each batch is cut down to
    this worker's part (Workers.share).
    """
    statistics = store.header["statistics"]
    mean = torch.tensor(statistics["frame_mean"], device=device).view(3, 1, 1)
    deviation = torch.tensor(statistics["frame_std"], device=device).view(3, 1, 1)
    boxes = None if augment is None else _draw_boxes(len(rows), augment, seed, epoch)
    pinned = device.type == "cuda"
    frames, spectrograms = np.asarray(store.frames), np.asarray(store.spectrograms)

    def gather(index: np.ndarray) -> _Host:
        chosen = rows[index]
        host = (
            torch.from_numpy(index),
            _take(spectrograms, chosen, pinned),
            _take(frames, chosen, pinned),
            torch.from_numpy(store.labels[chosen]),
        )
        return host if boxes is None else (*host, boxes[host[0]])

    parts = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot train on a lone clip
        parts[-2:] = [np.concatenate(parts[-2:])]
    shares = [workers.share(part) if workers else (part, len(part)) for part in parts]
    mine = [positions for positions, _ in shares]
    hosts = _one_ahead(gather, mine) if pinned else map(gather, mine)
    for part, (_, clips), host in zip(parts, shares, hosts, strict=True):
        index, audio, visual, labels, *box = (tensor.to(device, non_blocking=pinned) for tensor in host)
        visual = visual.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
        if box:
            visual = _crop_and_flip(visual, box[0])
        visual.sub_(mean).div_(deviation)
        audio = audio.float().sub_(statistics["spectrogram_mean"]).div_(statistics["spectrogram_std"])
        yield Batch(index, audio[:, None], visual, labels, clips, len(part))


def _take(array: np.ndarray, rows: np.ndarray, pinned: bool) -> Tensor:
    """A copy of these rows, in memory that a GPU can fetch by itself if `pinned`."""
    copy = torch.empty((len(rows), *array.shape[1:]), dtype=_TORCH_TYPES[array.dtype.name], pin_memory=pinned)
    np.take(array, rows, axis=0, out=copy.numpy(), mode="clip")  # mode raise would copy twice
    return copy


def _one_ahead(gather: Callable[[np.ndarray], _Host], parts: list[np.ndarray]) -> Iterator[_Host]:
    """map(gather, parts), with the next part gathered by a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for part in parts:
            gathered, coming = coming, pool.submit(gather, part)
            if gathered:
                yield gathered.result()
        if coming:
            yield coming.result()


def _draw_boxes(count: int, augment: Augment, seed: int, epoch: int) -> Tensor:
    """The part of the frame that each of `count` clips shows in this epoch, float32 (count, 4).

    Columns: half width (negative: mirrored), centre x, half height, centre y, where the frame spans -1..1.
    """
    # A stream a quantity: clip i gets the i-th draw of each, however many clips there are.
    half = 1 - (1 - augment.crop) * generator(seed, "crop side", epoch).random(count)
    x = (1 - half) * (2 * generator(seed, "crop x", epoch).random(count) - 1)
    y = (1 - half) * (2 * generator(seed, "crop y", epoch).random(count) - 1)
    mirrored = augment.flip & (generator(seed, "flip", epoch).random(count) < 0.5)
    return torch.from_numpy(np.stack((np.where(mirrored, -half, half), x, half, y), axis=1)).float()


def _crop_and_flip(visual: Tensor, boxes: Tensor) -> Tensor:
    """Show each clip's box (B, 4) of its frames (B, T, C, H, W), resized back bilinearly."""
    clips, times, channels, height, width = visual.shape
    # Not affine_grid: its matrix product may round differently in a batch of another size.
    x = boxes[:, 0:1] * _centres(width, boxes.device) + boxes[:, 1:2]
    y = boxes[:, 2:3] * _centres(height, boxes.device) + boxes[:, 3:4]
    shape = (clips, height, width)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    pixels = visual.reshape(clips, times * channels, height, width)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).view(visual.shape)


def _centres(size: int, device: torch.device) -> Tensor:
    """Centres of `size` pixels that span -1..1."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1
