"""How far a modality's confidence is from its accuracy, and the temperature that brings them together."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

BINS = 15
TEMPERATURES = (0.05, 20.0)
"""Bounds of a fitted temperature: on clips that are all answered rightly the likelihood wants 0."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Of one read-out over N clips.

    The confidence of a clip is its largest probability. `ece`, the expected calibration error (Guo et al., ICML 2017):
    clips are put into 15 equal bins of confidence over [0, 1]; |mean confidence - accuracy| is averaged over the bins,
    weighted by their clips. It is biased upwards where bins hold few clips.
    """

    accuracy: float
    confidence: float
    """Mean over the clips."""
    ece: float
    log_loss: float
    """Mean of -log probability of the true class, in nats."""
    bin_clips: np.ndarray
    """(15,)."""
    bin_confidence: np.ndarray
    """(15,), mean confidence of the bin's clips; NaN in an empty bin."""
    bin_accuracy: np.ndarray
    """(15,)."""


def calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Of logits, or log-probabilities, (N, C), N > 0, against labels (N,)."""
    log_p = log_softmax(logits, axis=1)
    confidence, right = np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    clips = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        bin_confidence = np.bincount(bins, confidence, BINS) / clips
        bin_accuracy = np.bincount(bins, right, BINS) / clips
    return Calibration(
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        ece=float(np.nansum(clips * np.abs(bin_confidence - bin_accuracy)) / len(labels)),
        log_loss=log_loss(log_p, labels),
        bin_clips=clips,
        bin_confidence=bin_confidence,
        bin_accuracy=bin_accuracy,
    )


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log softmax probability of the true class, in nats; logits (N, C), labels (N,)."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in [0.05, 20] for which softmax(logits / T) has the smallest log loss on these clips.

    The loss is convex in 1 / T (Guo et al. 2017), so that the search over log T has one minimum to find.
    """
    bounds = np.log(TEMPERATURES)
    search = minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), labels), bounds=bounds, method="bounded", options={"xatol": 1e-5}
    )
    return float(np.exp(search.x))
