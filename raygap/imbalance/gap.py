"""Scores of one modality and the gap between two.

A score p_m(i) is the softmax probability that modality m alone gives the true class of clip i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from raygap.imbalance import GapScore

if TYPE_CHECKING:  # commands read methods, and those this, before they need torch
    from torch import Tensor

Array = TypeVar("Array", "Tensor", np.ndarray)


def true_class_score(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the true class.

    `logits` is (B, C) of any float type, `labels` (B,) of int64; returns (B,) float32 in [0, 1], differentiable.
    """
    # bf16 keeps 8 bits: near 1 its steps are 0.004, too coarse for a gap of well-fitted clips.
    probabilities = logits.float().softmax(1)
    return probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)


def modality_gap(audio: Array, visual: Array) -> Array:
    """The gap g = p_audio - p_visual, in [-1, 1]; tensors or arrays of one shape."""
    return audio - visual


def mixture_values(audio: np.ndarray, visual: np.ndarray, score: GapScore) -> np.ndarray:
    """What the mixture is fitted to, from the scores (N,) of both modalities; returns (N,).

    absolute: |g| in [0, 1]; signed: g in [-1, 1]; min_score: 1 - min(p_audio, p_visual) in [0, 1].
    Balanced clips lie near 0 in all three. A NaN in either score stays NaN. Raises ValueError for another name.
    """
    if score == "absolute":
        return np.abs(modality_gap(audio, visual))
    if score == "signed":
        return modality_gap(audio, visual)
    if score == "min_score":
        return 1 - np.minimum(audio, visual)
    raise ValueError(f"unknown gap score {score!r}: absolute, signed or min_score")


def score_range(score: GapScore) -> tuple[float, float]:
    """Smallest and largest possible value of mixture_values."""
    return (-1.0, 1.0) if score == "signed" else (0.0, 1.0)


def gap_counts(values: np.ndarray, score: GapScore, bins: int = 40) -> list[int]:
    """Histogram of values (N,) of mixture_values, in equal bins over the score's range; a NaN is not counted."""
    # A float32 score may exceed 1 by its last bit.
    inside = np.clip(values[~np.isnan(values)], *score_range(score))
    return np.histogram(inside, bins, score_range(score))[0].tolist()
