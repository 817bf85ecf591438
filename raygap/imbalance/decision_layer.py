"""How much of the fused logits each modality makes, where they are a sum of one part a modality."""

from dataclasses import dataclass

import numpy as np

ADDS_UP = 1e-3
"""Parts add up to the fused logits if what they miss has less than this share of the fused logits' variance."""


@dataclass(frozen=True, eq=False)
class LogitShares:
    """Shares of the fused logits. Softmax does not see what all classes of a clip have in common, so parts are centred
    over the classes of each clip first; a constant a class (a bias) changes no share.

    The share of modality m is cov(part_m, fused) / var(fused) over the clips, summed over the classes above and below:
    both shares add up to 1, and one is negative where a modality works against the fused answer.
    """

    audio: float
    visual: float
    by_class: dict[str, np.ndarray]
    """(C,) a modality: the share in this class's fused logit; NaN where that logit never changes."""
    true_class: dict[str, np.ndarray]
    """(C,) a modality: how far, on the mean over the clips of this class, its part lifts the class's logit above the
    mean of all classes; NaN for a class without clips."""


def logit_shares(audio: np.ndarray, visual: np.ndarray, labels: np.ndarray) -> LogitShares:
    """From the parts W_m z_m, each (N, C), whose sum is the fused logits up to a constant a class; labels (N,)."""
    parts = {"audio": _centred(audio), "visual": _centred(visual)}
    moving = {name: part - part.mean(axis=0) for name, part in parts.items()}
    fused = moving["audio"] + moving["visual"]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.square(fused).sum(axis=0)
        by_class = {name: (part * fused).sum(axis=0) / variance for name, part in moving.items()}
        whole = {name: float((part * fused).sum() / variance.sum()) for name, part in moving.items()}
        clips = np.bincount(labels, minlength=audio.shape[1])
        rows = np.arange(len(labels))
        true_class = {name: np.bincount(labels, part[rows, labels], len(clips)) / clips for name, part in parts.items()}
    return LogitShares(whole["audio"], whole["visual"], by_class, true_class)


def adds_up(fused: np.ndarray, audio: np.ndarray, visual: np.ndarray) -> bool:
    """Whether the fused logits are the sum of both parts, up to a constant a class and one a clip; all (N, C)."""
    residual, whole = _centred(fused - audio - visual), _centred(fused)
    return bool(_variance(residual) <= ADDS_UP * _variance(whole))


def norms(values: np.ndarray) -> np.ndarray:
    """Euclidean length of each row: of features (N, F) a clip, of a head's weights (C, F) a class."""
    return np.linalg.norm(values, axis=1)


def _centred(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, dtype=np.float64)
    return logits - logits.mean(axis=1, keepdims=True)


def _variance(logits: np.ndarray) -> float:
    return float(np.square(logits - logits.mean(axis=0)).sum())
