"""Controls: posteriors that keep some of what the mixture says and destroy the rest."""

from typing import Literal

import numpy as np

Control = Literal["fitted", "shuffled", "inverted", "constant"]


def within_class_permutation(labels: np.ndarray, seed: int) -> np.ndarray:
    """A random permutation (N,) of the clips that only exchanges clips of one class, fixed by labels (N,) and seed."""
    random = np.random.default_rng(seed)
    permutation = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        permutation[members] = random.permutation(members)
    return permutation


def controlled(values: np.ndarray, control: Control, labels: np.ndarray, permutation: np.ndarray) -> np.ndarray:
    """Probabilities (N,) under a control, of the same dtype.

    fitted: as they are; shuffled: each clip gets those of clip permutation[i] of its class; inverted: 1 - p;
    constant: their mean. Raises ValueError for another control or a permutation that leaves the classes.
    """
    if control == "fitted":
        return values
    if control == "shuffled":
        if not np.array_equal(labels[permutation], labels):
            raise ValueError("the permutation exchanges clips of different classes")
        return values[permutation]
    if control == "inverted":
        return 1 - values
    if control == "constant":
        return np.full_like(values, values.mean(dtype=np.float64))
    raise ValueError(f"unknown control {control!r}: fitted, shuffled, inverted or constant")
