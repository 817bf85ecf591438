"""What the demo data set knows of itself: how well its planted damage was found."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy  # whose parts load when they are used

BAD = {"audio": ("spoiled_sound",), "visual": ("spoiled_picture", "mismatched")}
"""What is planted that spoils each modality; of a mismatched clip the label is the sound's."""


def planted(root: Path, ids: Sequence[str]) -> np.ndarray:
    """(N,), text: what is planted in these clips."""
    with (root / "manifest.csv").open(newline="", encoding="utf-8") as file:
        truth = {row["video"]: row["planted"] for row in csv.DictReader(file)}
    return np.array([truth[name] for name in ids])


def areas(truth: np.ndarray, good: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Area under the ROC curve of 1 - P(good): of each modality for what spoils it, of both for any damage."""
    either = good["audio"] * good["visual"]
    found = {name: _area(1 - good[name], np.isin(truth, kinds)) for name, kinds in BAD.items()}
    return found | {"any": _area(1 - either, truth != "clean")}


def _area(scores: np.ndarray, bad: np.ndarray) -> float:
    """P(a bad clip has a higher score than a good one), ties half: Mann and Whitney's U over all pairs."""
    ranks = scipy.stats.rankdata(scores)
    pairs = int(bad.sum()) * int((~bad).sum())
    return float((ranks[bad].sum() - bad.sum() * (bad.sum() + 1) / 2) / pairs)
