"""Accuracy, macro-F1 and loss of a network on a split, fused and by modality."""

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raygap.config import TrialConfig
from raygap.data.batches import batches
from raygap.data.clips import Split
from raygap.data.store import Store
from raygap.imbalance.gap import modality_gap, true_class_score
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.models.network import Network, Outputs
from raygap.training.precision import autocast
from raygap.workers import Workers

EVALUATION_BATCH = 256
EVALUATION_PICTURES = 1024
"""In a batch: clips of many frames come fewer at a time."""


@torch.no_grad()
def predict(
    network: Network,
    store: Store,
    rows: np.ndarray,
    config: TrialConfig,
    device: torch.device,
    method: type[Method] | None = None,
    workers: Workers | None = None,
) -> dict[str, Tensor]:
    """Outputs of the clips at `rows`, in that order, not augmented, on the CPU.

    fused, audio and visual logits, each (N, classes), and audio_features, visual_features, each (N, features). `method`
    replaces the class that the configuration names. With `workers`, each passes a part of the clips and gets them all.
    """
    network.eval()
    method, workers = method or find_method(config.method), workers or Workers()
    order = np.arange(workers.rank, len(rows), workers.size)
    names = [field.name for field in fields(Outputs)]
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    batch_size = min(EVALUATION_BATCH, max(EVALUATION_PICTURES // config.prepare.frames, 1))
    for batch in batches(store, rows, batch_size=batch_size, order=order, device=device, augment=None, seed=0, epoch=0):
        with autocast(config, device):
            outputs = method.predict(network, batch.audio, batch.visual)
        for name in names:
            parts[name].append(getattr(outputs, name).float())
    return {name: workers.interleave(parts[name], len(rows)) for name in names}


def evaluate(
    network: Network,
    store: Store,
    split: Split,
    config: TrialConfig,
    device: torch.device,
    method: type[Method] | None = None,
    workers: Workers | None = None,
) -> dict[str, float]:
    """Metrics of a split, named `<split>_accuracy`, `<split>_audio_macro_f1`, `<split>_gap_mean`, ..."""
    rows = store.rows(split)
    return measured(predict(network, store, rows, config, device, method, workers), store.labels[rows], split)


def measured(logits: dict[str, Tensor], labels: np.ndarray, split: str) -> dict[str, float]:
    """The same of fused, audio and visual logits (N, classes) and labels (N,)."""
    metrics = {}
    for name in ("fused", "audio", "visual"):
        values = logits[name]
        prefix = f"{split}_" if name == "fused" else f"{split}_{name}_"
        guess = values.argmax(1).numpy()
        metrics[prefix + "accuracy"] = float((guess == labels).mean())
        metrics[prefix + "macro_f1"] = macro_f1(labels, guess)
        metrics[prefix + "loss"] = float(F.cross_entropy(values, torch.from_numpy(labels)))
    answer = torch.from_numpy(labels)
    gap = modality_gap(true_class_score(logits["audio"], answer), true_class_score(logits["visual"], answer))
    return metrics | {f"{split}_gap_mean": float(gap.mean()), f"{split}_gap_absolute_mean": float(gap.abs().mean())}


def macro_f1(labels: np.ndarray, guesses: np.ndarray) -> float:
    """Mean F1 score of the classes that stand among labels or guesses (N,), as scikit-learn's f1_score has it."""
    classes = int(max(labels.max(), guesses.max())) + 1
    said = np.bincount(labels, minlength=classes) + np.bincount(guesses, minlength=classes)
    right = np.bincount(labels[labels == guesses], minlength=classes)
    return float((2 * right[said > 0] / said[said > 0]).mean())
