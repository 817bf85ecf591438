"""What follows a training: a correction of its decision layer, fitted to validation; the test; a look at its clips.

The correction stands under the key `correction` in best.pt: its own mapping; `gain` and `half_width`, what it adds to
the accuracy on `clips` validation clips, cross-fitted; and `helps`: whether that is beyond its 95 % interval. One kind
is fitted alone, so that there is no best of several to be fooled by; the others are `diagnose --correct`'s.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from torch import Tensor

from raygap.data.store import Store
from raygap.imbalance.correction import (
    FOLDS,
    READOUTS,
    Correction,
    TemperatureWeights,
    accuracy_gain,
    cross_fitted,
    from_mapping,
)
from raygap.imbalance.spoiled import Others
from raygap.patience import patiently
from raygap.training import checkpoint
from raygap.training.evaluation import macro_f1, measured, predict
from raygap.training.precision import pick_device
from raygap.training.run import load_network, write_table
from raygap.training.trainer import Metrics, training_rows

KIND = TemperatureWeights
ABOUT = ("gain", "half_width", "clips", "helps")


def test(folder: Path, store: Store) -> Metrics:
    """Read the test split once, with the weights of the selected epoch, and as corrected where a correction is kept."""
    correction = patiently(lambda: keep_correction(folder / "best.pt", store))
    config, network = patiently(lambda: load_network(folder / "best.pt", len(store.class_names)))
    device, rows = pick_device(), store.rows("test")
    outputs, labels = predict(network.to(device), store, rows, config, device), store.labels[rows]
    metrics = measured(outputs, labels, "test")
    if correction:
        guess = correction.apply(_logits(outputs)).argmax(axis=1)
        metrics["test_corrected_accuracy"] = float((guess == labels).mean())
        metrics["test_corrected_macro_f1"] = macro_f1(labels, guess)
    return metrics


def write_answers(folder: Path, store: Store, path: Path) -> None:
    """Of a folder's network, as parquet: a row a training clip, by modality the strongest class but its label's."""
    config, network = patiently(lambda: load_network(folder / "best.pt", len(store.class_names)))
    device, rows = pick_device(), training_rows(config, store)
    outputs = predict(network.to(device), store, rows, config, device)
    columns: dict[str, list | np.ndarray] = {"clip": [store.clip_ids[row] for row in rows]}
    for name in ("audio", "visual"):
        other = Others.of(softmax(outputs[name].double().numpy(), axis=1), store.labels[rows])
        columns[f"{name}_other"] = [store.class_names[label] for label in other.label]
        columns[f"{name}_other_score"] = other.score
    patiently(lambda: write_table(path, columns))


def keep_correction(path: Path, store: Store) -> Correction | None:
    """Fit the correction of a best.pt and write it into the file, or read the one that is there.

    None, and nothing is written, where the network was trained on validation too, or too few clips are held out.
    """
    saved = checkpoint.load(path)
    if "correction" not in saved:
        config, network = load_network(path, len(store.class_names))
        rows = store.rows("val")
        if config.protocol == "paper" or len(rows) < 2 * FOLDS:
            return None
        device = pick_device()
        outputs = predict(network.to(device), store, rows, config, device)
        saved["correction"] = fitted(_logits(outputs), store.labels[rows], config.seed)
        checkpoint.save(saved, path)
    return kept_correction(saved["correction"])


def _logits(outputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: outputs[name].double().numpy() for name in READOUTS}


def fitted(logits: dict[str, np.ndarray], labels: np.ndarray, seed: int) -> dict[str, Any]:
    """What stands under the key `correction`, from logits (N, C) by read-out of clips held out of training."""
    gain = accuracy_gain(logits["fused"], cross_fitted(KIND, logits, labels, seed), labels)
    about = {"gain": gain.mean, "half_width": gain.half_width, "clips": len(labels)}
    return KIND.fit(logits, labels).to_mapping() | about | {"helps": gain.clear and gain.mean > 0}


def kept_correction(kept: dict[str, Any]) -> Correction:
    """The correction of what stands under the key `correction`."""
    return from_mapping({name: value for name, value in kept.items() if name not in ABOUT})
