"""Which stage an epoch belongs to, its learning rate, and which clips purification keeps. Epochs count from 0."""

import math
from typing import Literal

import numpy as np

from raygap.config import Optimizer, Purify, TrialConfig

Stage = Literal["warmup", "adaptive", "purification"]


def stage_of(config: TrialConfig, epoch: int) -> Stage:
    """warm-up first, purification last, adaptive between."""
    if epoch < config.warmup.epochs:
        return "warmup"
    return "adaptive" if epoch < config.epochs - config.purify.epochs else "purification"


def refit_due(config: TrialConfig, epoch: int, fitted: bool) -> bool:
    """Every refit_every adaptive epochs, at the start of purification, and at each epoch until a first fit succeeds.

    With refit_every 0 only until then.
    """
    stage, every = stage_of(config, epoch), config.mixture.refit_every
    if stage == "adaptive":
        return not fitted or (every > 0 and (epoch - config.warmup.epochs) % every == 0)
    return stage == "purification" and epoch == config.epochs - config.purify.epochs


def learning_rate(optimizer: Optimizer, epochs: int, epoch: int, through: float = 1.0) -> float:
    """Rate of a step that ends when an epoch is `through`, in (0, 1]: the epoch's, and within optimizer.ramp_epochs a
    share of it that rises with each step. It looks at the epoch and the trial's total, never at a stage's length.
    """
    rate = _scheduled(optimizer, epochs, epoch)
    done = epoch + through
    return rate * done / optimizer.ramp_epochs if done < optimizer.ramp_epochs else rate


def _scheduled(optimizer: Optimizer, epochs: int, epoch: int) -> float:
    if optimizer.schedule == "step":
        return optimizer.lr * optimizer.gamma ** (epoch // optimizer.step_size)
    if optimizer.schedule == "cosine":
        return optimizer.lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return optimizer.lr


def purified(purify: Purify, balanced: np.ndarray, labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Positions, ascending, of the clips that purification trains on; `balanced` is P(balanced), (N,).

    Of each class it keeps the clips that reach the threshold, and at least the share class_floor with the highest
    P(balanced). subset=random keeps as many of each class, drawn by chance. Without a fit (NaN) it keeps every clip.
    """
    if np.isnan(balanced).any():
        return np.arange(len(labels))
    kept = []
    for label in np.unique(labels):
        clips = np.flatnonzero(labels == label)
        best_first = clips[np.argsort(-balanced[clips], kind="stable")]
        enough = max((balanced[clips] >= purify.threshold).sum(), math.ceil(purify.class_floor * len(clips)), 1)
        kept.append(best_first[:enough] if purify.subset == "filtered" else draw.permutation(clips)[:enough])
    return np.sort(np.concatenate(kept))
