"""Accuracy, macro-F1 and loss of a network on a split, fused and by modality."""

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn import functional as F

from raygap.config import TrialConfig
from raygap.data.batches import batches
from raygap.data.store import Store
from raygap.imbalance.gap import true_class_score
from raygap.models.network import Network
from raygap.training.precision import autocast

EVALUATION_BATCH = 256


@torch.no_grad()
def predict(
    network: Network, store: Store, rows: np.ndarray, config: TrialConfig, device: torch.device
) -> dict[str, Tensor]:
    """Logits of the clips at `rows`, in that order, not augmented: fused, audio, visual, each (N, classes)."""
    network.eval()
    order = np.arange(len(rows))
    logits: dict[str, list[Tensor]] = {"fused": [], "audio": [], "visual": []}
    for batch in batches(
        store, rows, batch_size=EVALUATION_BATCH, order=order, device=device, augment=None, seed=0, epoch=0
    ):
        with autocast(config, device):
            outputs = network(batch.audio, batch.visual)
        for name, parts in logits.items():
            parts.append(getattr(outputs, name).float())
    return {name: torch.cat(parts).cpu() for name, parts in logits.items()}


def true_class_scores(
    network: Network, store: Store, rows: np.ndarray, config: TrialConfig, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Audio and visual score of each clip, each (N,), from a pass without augmentation."""
    logits = predict(network, store, rows, config, device)
    labels = torch.from_numpy(store.labels[rows])
    return true_class_score(logits["audio"], labels).numpy(), true_class_score(logits["visual"], labels).numpy()


def evaluate(network: Network, store: Store, split: str, config: TrialConfig, device: torch.device) -> dict[str, float]:
    """Metrics of a split, named `<split>_accuracy`, `<split>_audio_macro_f1`, `<split>_loss`, ..."""
    rows = store.rows(split)
    logits, labels = predict(network, store, rows, config, device), store.labels[rows]
    metrics = {}
    for name, values in logits.items():
        prefix = f"{split}_" if name == "fused" else f"{split}_{name}_"
        guess = values.argmax(1).numpy()
        metrics[prefix + "accuracy"] = float((guess == labels).mean())
        metrics[prefix + "macro_f1"] = float(f1_score(labels, guess, average="macro", zero_division=0))
        metrics[prefix + "loss"] = float(F.cross_entropy(values, torch.from_numpy(labels)))
    return metrics
