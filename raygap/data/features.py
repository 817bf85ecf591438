"""Features: what other networks have made of the sound and the picture of each clip, in place of media.

A modality's are vectors, float32 (N, D), or sequences of steps, float32 (N, L, D + 1): of a step the last number is 1
where it is there, and 0 beyond the end of a shorter clip, where all numbers are 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Features:
    """Of N clips."""

    audio: np.ndarray
    visual: np.ndarray

    @cached_property
    def digest(self) -> str:
        """sha256 of all of them."""
        digest = hashlib.sha256()
        for array in (self.audio, self.visual):
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def statistics(self, trained: np.ndarray) -> dict[str, list[float]]:
        """Mean and deviation of each number over the steps of the clips `trained`, bool (N,), as a store has them."""
        found: dict[str, list[float]] = {}
        for name, array in (("audio", self.audio), ("visual", self.visual)):
            steps = array[trained]
            if steps.ndim == 3:
                steps = steps[steps[..., -1] == 1][:, :-1]
            deviation = steps.std(0, dtype=np.float64)
            deviation[deviation == 0] = 1.0  # a number that never changes
            found |= {f"{name}_mean": steps.mean(0, dtype=np.float64).tolist(), f"{name}_std": deviation.tolist()}
        return found


def numbers(features: np.ndarray) -> int:
    """D: how many numbers a vector, or a step, is."""
    return features.shape[-1] - (features.ndim == 3)


def padded(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Steps (L_i, D) of N clips, as above."""
    longest = max((len(steps) for steps in sequences), default=0)
    whole = np.zeros((len(sequences), longest, sequences[0].shape[1] + 1), np.float32)
    for row, steps in enumerate(sequences):
        whole[row, : len(steps), :-1] = steps
        whole[row, : len(steps), -1] = 1
    return whole


def scaled(features: np.ndarray, statistics: Mapping[str, Any], modality: str) -> np.ndarray:
    """A modality's features, standardised by a store's statistics; what is beyond the end of a clip stays 0."""
    mean, deviation = (np.array(statistics[f"{modality}_{what}"], np.float32) for what in ("mean", "std"))
    if features.ndim == 2:
        return (features - mean) / deviation
    there = features[..., -1:]
    return np.concatenate(((features[..., :-1] - mean) / deviation * there, there), -1)
