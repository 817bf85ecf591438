"""Networks of one sweep that answer as one, chosen on validation, and how much better that is than the best of them.

Two ways: the weighted mean of their probabilities, weights chosen greedily with replacement (Caruana et al., ICML 2004:
again and again the network whose vote helps most is added to a bag; the smallest bag that is never beaten is kept), at
one forward pass a network; and, among those that grew from the same warm-up, the mean of their weights (the greedy soup
of Wortsman et al., ICML 2022: best first, a network stays in where validation does not fall), at one pass in all.
Ties go to what is smaller: the single best, then the soup, then the mean of probabilities.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from raygap.data.clips import Split
from raygap.data.predictions import READOUTS, SMALLEST_PROBABILITY
from raygap.data.store import Store
from raygap.imbalance.correction import FOLDS, accuracy_gain
from raygap.methods import find_method
from raygap.schema import from_mapping
from raygap.training import checkpoint
from raygap.training.evaluation import measured, predict
from raygap.training.final import fitted, keep_correction
from raygap.training.precision import pick_device
from raygap.training.run import load_network
from raygap.training.trainer import Metrics
from raygap.training.trunk import warmup_key

VOTES = 25
"""Networks in the bag, at most; AutoGluon's default as well."""
SOUP = "soup.pt"

Logits = dict[str, np.ndarray]
"""fused, audio and visual, each (N, C)."""
Score = Callable[[Metrics], float]
"""Of the metrics of validation; more is better."""


@dataclass(frozen=True)
class Ensemble:
    """What validation chose of some networks, and what it reached beside the single best, the first of them."""

    answer: Literal["single", "soup", "probabilities"]
    weights: dict[str, float]
    """Of each network that takes part, by its name; of a soup all equal."""
    validation: dict[str, Metrics]
    """Metrics of `single`, `soup` and `probabilities`, as far as there are any."""
    gains: dict[str, tuple[float, float]]
    """By split: points of fused accuracy (0 to 1) ahead of the single best, by clip, and half of its 95 % interval."""
    test: dict[str, Metrics]
    """Of the single best and of the answer; empty if test was not read, or the answer is the single best."""
    correction: dict[str, Any]
    """Of the mean of probabilities, as a best.pt keeps its own."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def passes(self) -> int:
        """Forward passes a clip."""
        return len(self.weights) if self.answer == "probabilities" else 1


def mixed(logits: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float]) -> Logits:
    """Logarithms of the weighted mean of softmax probabilities, read-out by read-out; `weights` add up to 1."""
    return {
        name: np.log(
            np.maximum(
                sum(w * softmax(one[name], axis=1) for w, one in zip(weights, logits, strict=True)),
                SMALLEST_PROBABILITY,
            )
        )
        for name in READOUTS
    }


def votes(logits: Sequence[Logits], labels: np.ndarray, score: Score) -> dict[int, float]:
    """Weight by the place of each network in the bag that is best on these clips, the smallest of equally good ones.

    Of networks whose votes help equally the one with the lower log loss is added, then the earlier one.
    """
    bag: list[int] = []
    best: tuple[float, list[int]] = (-np.inf, [])
    sums = {name: np.zeros_like(logits[0][name], dtype=np.float64) for name in READOUTS}
    shares = [{name: softmax(one[name].astype(np.float64), axis=1) for name in READOUTS} for one in logits]
    for _ in range(VOTES):
        tried = []
        for place, one in enumerate(shares):
            mean = {name: (sums[name] + one[name]) / (len(bag) + 1) for name in READOUTS}
            found = _measured({name: np.log(np.maximum(p, SMALLEST_PROBABILITY)) for name, p in mean.items()}, labels)
            tried.append((score(found), -found["val_loss"], -place))
        value, _, place = max(tried)
        bag.append(-place)
        sums = {name: sums[name] + shares[-place][name] for name in READOUTS}
        if value > best[0]:
            best = value, list(bag)
    return {place: count / len(best[1]) for place, count in sorted(Counter(best[1]).items())}


def combine(networks: Mapping[str, Path], store: Store, folder: Path, score: Score, read_test: bool) -> Ensemble:
    """Choose on validation among networks, best.pt by name, the single best first; a soup is written to `folder`.

    `read_test`: the single best and the answer are read on test, too. Raises UserError for a damaged file.
    """
    labels = store.labels[store.rows("val")]
    logits = {name: _logits(path, store, "val") for name, path in networks.items()}
    first = next(iter(networks))
    arms: dict[str, Logits] = {"single": logits[first]}
    shares = votes(list(logits.values()), labels, score)
    weights = {"single": {first: 1.0}, "probabilities": {list(networks)[i]: share for i, share in shares.items()}}
    bowl, soup = [first], folder / SOUP
    for name in _same_warmup(networks, store)[1:]:
        _write_soup([networks[one] for one in (*bowl, name)], soup)
        tried = _logits(soup, store, "val")
        if score(_measured(tried, labels)) >= score(_measured(arms.get("soup", arms["single"]), labels)):
            bowl.append(name)
            arms["soup"] = tried
    if len(shares) > 1:
        arms["probabilities"] = mixed([logits[name] for name in weights["probabilities"]], list(shares.values()))
    weights["soup"] = dict.fromkeys(bowl, 1 / len(bowl))
    found = {name: _measured(one, labels) for name, one in arms.items()}
    order = {"single": 2, "soup": 1, "probabilities": 0}
    answer: Any = max(arms, key=lambda name: (score(found[name]), order[name]))
    if answer == "soup":
        _write_soup([networks[one] for one in bowl], soup)
        keep_correction(soup, store)
    else:
        soup.unlink(missing_ok=True)
    gains = {"val": _gain(arms["single"], arms[answer], labels)}
    test: dict[str, Metrics] = {}
    if read_test and answer != "single":
        paths = [soup] if answer == "soup" else [networks[name] for name in weights[answer]]
        single = _logits(networks[first], store, "test")
        read = [_logits(path, store, "test") for path in paths]
        ours, truth = mixed(read, [*weights[answer].values()] if len(read) > 1 else [1.0]), _labels(store, "test")
        test = {"single": _measured(single, truth, "test"), answer: _measured(ours, truth, "test")}
        gains["test"] = _gain(single, ours, truth)
    correction = {}
    if answer == "probabilities" and len(labels) >= 2 * FOLDS:
        seed = from_mapping(checkpoint.load(networks[first])["config"], str(networks[first])).seed
        correction = fitted(arms[answer], labels, seed)
    return Ensemble(answer, weights[answer], found, gains, test, correction)


def _labels(store: Store, split: Split) -> np.ndarray:
    return store.labels[store.rows(split)]


def _logits(path: Path, store: Store, split: Split) -> Logits:
    config, network = load_network(path, len(store.class_names))
    device = pick_device()
    outputs = predict(network.to(device), store, store.rows(split), config, device)
    return {name: outputs[name].double().numpy() for name in READOUTS}


def _measured(logits: Logits, labels: np.ndarray, split: Split = "val") -> Metrics:
    return measured({name: torch.from_numpy(values) for name, values in logits.items()}, labels, split)


def _gain(single: Logits, other: Logits, labels: np.ndarray) -> tuple[float, float]:
    gain = accuracy_gain(single["fused"], other["fused"], labels)
    return gain.mean, gain.half_width


def _same_warmup(networks: Mapping[str, Path], store: Store) -> list[str]:
    """The first and those after it that grew from its warm-up, and have the same tensors."""
    keys: dict[str, Any] = {}
    for name, path in networks.items():
        saved = checkpoint.load(path)
        config = from_mapping(saved["config"], str(path))
        key = warmup_key(config, store.header["key"], find_method(config.method)) if config.warmup.epochs else name
        keys[name] = key, [(of, *_kind(tensor)) for of, tensor in sorted(saved["network"].items())]
    first = next(iter(networks))
    return [name for name in networks if keys[name] == keys[first]]


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    # What is an array of whole numbers, as the count of classifiers in use, is part of the network's shape.
    whole = tensor.tolist() if tensor.ndim and not tensor.is_floating_point() else None
    return tuple(tensor.shape), str(tensor.dtype), whole


def _write_soup(paths: Sequence[Path], soup: Path) -> None:
    """The mean of their weights in place of the first one's; what is no fraction (counts) is the first one's."""
    saved = [checkpoint.load(path) for path in paths]
    tensors: list[dict[str, Tensor]] = [one["network"] for one in saved]
    mean = {
        name: torch.stack([one[name].double() for one in tensors]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors[0].items()
    }
    base = {key: value for key, value in saved[0].items() if key != "correction"}
    checkpoint.save(base | {"network": mean}, soup)
