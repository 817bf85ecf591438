"""Clips of the training split that a method keeps for measuring, and does not train on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raygap.errors import UserError
from raygap.methods.base import Method
from raygap.rng import generator

if TYPE_CHECKING:
    from raygap.config import TrialConfig


class HoldsOut(Method):
    """A method that measures on `held` and on `compared`, as many clips of those that it trains on (hold_out)."""

    def __init__(self, config: TrialConfig, labels: np.ndarray, *others: Any) -> None:
        super().__init__(config, labels, *others)
        self.held, self.compared = hold_out(labels, self.held_share(config), config.seed)

    @classmethod
    def held_share(cls, config: TrialConfig) -> float:
        """Share of each class that is held out."""
        raise NotImplementedError(f"{cls.__name__} has no held_share")

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """It must keep its held-out clips from the start, and to the end."""
        super().check(config)
        if config.purify.epochs:
            raise UserError(
                f"{config.method} cannot tell balanced clips, as those that it holds out have no scores; "
                "set purify.epochs=0"
            )
        if config.warmup.epochs:
            raise UserError(
                f"{config.method} needs warmup.epochs = 0, not {config.warmup.epochs}: "
                "a warm-up would train on the clips that it holds out"
            )

    def draw(self, clips: np.ndarray, epoch: int) -> np.ndarray:
        """All but the held-out clips."""
        return clips[~np.isin(clips, self.held)]


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions, ascending, of the held-out clips, and of as many training clips of each class to compare them with.

    `share` of each class is held out, rounded up, but never half of it or more: a class of one or two keeps all.
    """
    held, compared = [], []
    for label in np.unique(labels):
        clips = generator(seed, "hold out", int(label)).permutation(np.flatnonzero(labels == label))
        count = min(math.ceil(share * len(clips)), (len(clips) - 1) // 2)
        held.append(clips[:count])
        compared.append(clips[count : 2 * count])
    return np.sort(np.concatenate(held)), np.sort(np.concatenate(compared))
