from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from stores import SMALL

from raygap.data.store import Store
from raygap.imbalance.correction import TemperatureWeights
from raygap.schema import from_mapping
from raygap.training import checkpoint
from raygap.training.final import fitted, keep_correction, kept_correction, write_answers
from raygap.training.final import test as read_test
from raygap.training.inference import Classifier, fingerprint, store_predictions
from raygap.training.run import train


@pytest.fixture(scope="module")
def trained(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    list(train(from_mapping(SMALL | {"epochs": 3}), small_store, folder))
    return folder


def test_the_correction_is_fitted_to_validation_kept_and_used_by_the_test(trained: Path, small_store: Store) -> None:
    before = fingerprint(trained / "best.pt")
    metrics = read_test(trained, small_store)
    content = (trained / "best.pt").read_bytes()
    assert fingerprint(trained / "best.pt") == before  # the weights are what they were
    held_out, tested = (store_predictions(trained / "best.pt", small_store, [split]) for split in ("val", "test"))
    expected = TemperatureWeights.fit(held_out.logits, held_out.labels)
    assert kept_correction(checkpoint.load(trained / "best.pt")["correction"]) == expected
    answer = expected.apply(tested.logits).argmax(axis=1)
    assert metrics["test_corrected_accuracy"] == np.mean(answer == tested.labels)
    assert keep_correction(trained / "best.pt", small_store) == expected
    assert (trained / "best.pt").read_bytes() == content  # a resumed sweep finds it there


def test_it_is_used_for_answers_only_if_it_helped_beyond_its_interval(trained: Path, small_store: Store) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(400) % 4
    fused, audio = 0.5 * random.normal(size=(2, 400, 4))
    useless = {"fused": fused, "audio": audio, "visual": 0.5 * random.normal(size=(400, 4))}
    assert not fitted(useless, labels, seed=0)["helps"]
    useful = fitted(useless | {"visual": 3 * np.eye(4)[labels] + useless["visual"]}, labels, seed=0)
    assert useful["helps"]
    assert useful["gain"] > useful["half_width"] > 0
    keep_correction(trained / "best.pt", small_store)
    saved = checkpoint.load(trained / "best.pt")
    for helps in (True, False):
        checkpoint.save(saved | {"correction": saved["correction"] | {"helps": helps}}, trained / "other.pt")
        assert (Classifier.load(trained / "other.pt").correction is not None) == helps


def test_a_network_that_was_trained_on_validation_has_none(small_store: Store, tmp_path: Path) -> None:
    list(train(from_mapping(SMALL | {"epochs": 3, "protocol": "paper"}), small_store, tmp_path))
    metrics = read_test(tmp_path, small_store)
    assert "test_accuracy" in metrics
    assert "test_corrected_accuracy" not in metrics
    assert "correction" not in checkpoint.load(tmp_path / "best.pt")


def test_what_the_network_takes_training_clips_for_is_never_their_label(trained: Path, small_store: Store) -> None:
    write_answers(trained, small_store, trained / "answers.parquet")
    answers, ledger = (pq.read_table(trained / f"{name}.parquet") for name in ("answers", "ledger"))
    assert answers["clip"].to_pylist() == ledger["clip"].to_pylist()
    for name in ("audio", "visual"):
        assert all(
            a != b for a, b in zip(answers[f"{name}_other"].to_pylist(), ledger["label"].to_pylist(), strict=True)
        )
        assert min(answers[f"{name}_other_score"].to_pylist()) >= 0
