"""Clips of the training split that a method keeps for measuring, and does not train on."""

import math

import numpy as np

from raygap.rng import generator


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
