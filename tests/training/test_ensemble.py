"""Ensembles of trained networks: what is chosen on validation, and what then answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from stores import SMALL

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.training import checkpoint
from raygap.training.ensemble import SOUP, combine, mixed, votes
from raygap.training.evaluation import measured
from raygap.training.inference import Classifier
from raygap.training.run import train
from raygap.training.trainer import Metrics

READOUTS = ("fused", "audio", "visual")


def accuracy(metrics: Metrics) -> float:
    return metrics["val_accuracy"]


def loss(metrics: Metrics) -> float:
    return -metrics["val_loss"]


def surely(right: np.ndarray, labels: np.ndarray, sure: float) -> dict[str, np.ndarray]:
    """Logits of two classes for the labels where it is right, for the others elsewhere."""
    said = np.where(right, labels, 1 - labels)
    return dict.fromkeys(READOUTS, sure * np.eye(2)[said])


def test_votes_are_the_smallest_bag_that_is_never_beaten() -> None:
    labels = np.arange(40) % 2
    wrong = [np.isin(np.arange(40) % 10, at) for at in ([0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2, 3, 4])]
    one, two, three, worse = (surely(~at, labels, 3.0) for at in wrong)
    assert votes([one, one, one], labels, accuracy) == {0: 1.0}  # equals add nothing
    assert votes([one, worse], labels, accuracy) == {0: 1.0}
    # Three that err on different clips are right together, each with one vote: nothing is left to gain.
    assert votes([worse, one, two, three], labels, accuracy) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    weights = votes([worse, one, two, three], labels, loss)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights[1] == weights[2] == weights[3] > weights.get(0, 0)


def test_votes_never_do_worse_than_the_best_alone() -> None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        labels = draw.integers(0, 4, 60)
        networks = [dict.fromkeys(READOUTS, draw.normal(0, 1, (60, 4)) + np.eye(4)[labels]) for _ in range(4)]
        for score in (accuracy, loss):
            weights = votes(networks, labels, score)
            together = mixed([networks[i] for i in weights], list(weights.values()))
            alone = [_score(one, labels, score) for one in networks]
            assert _score(together, labels, score) >= max(alone)


def _score(logits: dict[str, np.ndarray], labels: np.ndarray, score) -> float:
    return score(measured({name: torch.from_numpy(one) for name, one in logits.items()}, labels, "val"))


@pytest.fixture(scope="module")
def networks(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two that share a warm-up, and one with other encoders."""
    fields = {"7": {"loss.focus": 1.0}, "3": {"loss.focus": 4.0}, "5": {"model.width": 5}}
    found = {}
    for name, own in fields.items():
        folder = tmp_path_factory.mktemp("network")
        list(train(from_mapping(SMALL | {"method": "gmm_adaptive"} | own), small_store, folder))
        found[name] = folder / "best.pt"
    return found


def test_what_is_chosen_answers(networks: dict[str, Path], small_store: Store, tmp_path: Path) -> None:
    found = combine(networks, small_store, tmp_path, loss, read_test=True)
    assert set(found.validation) >= {"single", "probabilities"}
    reached = {name: loss(metrics) for name, metrics in found.validation.items()}
    assert reached[found.answer] == max(reached.values())
    members = [Classifier.load(networks[name]) for name in networks]
    rows = small_store.rows("test")
    given = np.array(small_store.frames[rows]), np.array(small_store.spectrograms[rows])
    together = Classifier.of(members, [0.5, 0.25, 0.25], {}).logits(*given)
    shares = [softmax(one.logits(*given)["audio"], axis=1) for one in members]
    mean = 0.5 * shares[0] + 0.25 * shares[1] + 0.25 * shares[2]
    np.testing.assert_allclose(np.exp(together["audio"]), mean, atol=1e-6)
    if found.answer == "probabilities":
        told = Classifier.of([Classifier.load(networks[n]) for n in found.weights], [*found.weights.values()], {})
        guess = told.logits(*given)["fused"].argmax(1)
        assert (guess == small_store.labels[rows]).mean() == found.test["probabilities"]["test_accuracy"]
    assert found.test.keys() == {"single", found.answer}
    assert found.gains.keys() == {"val", "test"}


def test_a_soup_is_the_mean_of_weights_of_those_that_share_a_warm_up(
    networks: dict[str, Path], small_store: Store, tmp_path: Path
) -> None:
    two = {name: networks[name] for name in ("7", "3")}
    reached = combine(two, small_store, tmp_path, lambda metrics: 0.0, read_test=False).validation["soup"]["val_loss"]
    found = combine(two, small_store, tmp_path, lambda metrics: float(metrics["val_loss"] == reached), read_test=True)
    assert (found.answer, found.weights, found.passes) == ("soup", {"7": 0.5, "3": 0.5}, 1)
    assert found.test.keys() == {"single", "soup"}
    soup, parts = checkpoint.load(tmp_path / SOUP), [checkpoint.load(path)["network"] for path in two.values()]
    for name, tensor in soup["network"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (parts[0][name] + parts[1][name]) / 2)
    assert "helps" in soup["correction"]
    assert Classifier.load(tmp_path / SOUP).class_names == small_store.class_names
    others = {name: networks[name] for name in ("7", "5")}
    assert "soup" not in combine(others, small_store, tmp_path, accuracy, read_test=False).validation
    assert not (tmp_path / SOUP).exists()


def test_the_single_best_answers_unless_another_is_better(
    networks: dict[str, Path], small_store: Store, tmp_path: Path
) -> None:
    found = combine(networks, small_store, tmp_path, lambda metrics: 0.0, read_test=True)
    assert (found.answer, found.weights, found.test) == ("single", {"7": 1.0}, {})
    assert found.gains == {"val": (0.0, 0.0)}
    assert found.passes == 1
