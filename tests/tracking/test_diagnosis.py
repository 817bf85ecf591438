"""Diagnoses of planted cases: the numbers, the sentences, and what is written."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from stores import SMALL
from test_report import BROKEN, charts_in, text_of

from raygap.data.predictions import Predictions
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.tracking.diagnosis import Diagnosis, diagnose, write_diagnosis
from raygap.tracking.diagnosis.findings import Corrected, Estimate
from raygap.tracking.diagnosis.verdict import advice, verdict
from raygap.training.inference import store_predictions
from raygap.training.run import train

CLASSES = 4


def readout(labels: np.ndarray, strength: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Logits of a calibrated read-out that knows the class the better, the larger `strength` (N,) is."""
    strength = strength[:, None]
    return strength * (strength * np.eye(CLASSES)[labels] + random.normal(size=(len(labels), CLASSES)))


def planted(audio: float, visual: float, *, count: int = 400, spoiled: float = 0.0, loud: float = 1.0) -> Predictions:
    """Half train, half val; of the share `spoiled` the picture says nothing. `loud` multiplies the audio logits."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % CLASSES
    gone = random.random(count) < spoiled
    logits = {
        "audio": loud * readout(labels, np.full(count, audio), random),
        "visual": readout(labels, np.where(gone, 0.05, visual), random),
    }
    return Predictions(
        ids=np.array([f"{'gone' if bad else 'clip'}{i}" for i, bad in enumerate(gone)]),
        labels=labels,
        class_names=("cat", "dog", "owl", "fox"),
        logits={"fused": logits["audio"] + logits["visual"], **logits},
        splits=np.where(np.arange(count) < count // 2, "train", "val"),
    )


def look(predictions: Predictions, **options: Any) -> Diagnosis:
    settings = {"source": "planted", "score": "absolute", "split": "val", "correct": False, "seed": 0}
    return diagnose(predictions, **settings | options)


def said(diagnosis: Diagnosis) -> str:
    return " ".join(sentence.text for sentence in verdict(diagnosis))


def test_a_balanced_model_is_called_one() -> None:
    diagnosis = look(planted(1.8, 1.8))
    assert "Neither modality clearly leads" in said(diagnosis)
    assert "Fusion pays" in said(diagnosis)
    assert "No evidence of two groups" in said(diagnosis)
    assert diagnosis.shares.audio == pytest.approx(0.5, abs=0.1)
    assert "follow" not in said(diagnosis)


def test_a_leader_a_starved_modality_and_a_loud_one_are_named() -> None:
    diagnosis = look(planted(2.5, 1.0))
    assert "Audio leads" in said(diagnosis)
    assert any("--method visual_only" in text for text in advice(diagnosis))
    nothing = look(planted(2.5, 0.02))
    assert "Visual alone is not clearly better than always answering the most frequent class" in said(nothing)
    assert any("See whether visual holds anything at all" in text for text in advice(nothing))
    loud = look(planted(1.5, 1.5, loud=4.0))
    assert "The fused logits follow audio more than it earns" in said(loud)
    assert "Audio is too sure of itself" in said(loud)
    assert any("--correct" in text for text in advice(loud))


def test_two_groups_are_found_and_the_balanced_subset_is_the_unspoiled_one(tmp_path: Path) -> None:
    diagnosis = look(planted(4.0, 4.0, spoiled=0.3))
    assert "Gaps of train: The gaps look like two groups" in said(diagnosis)
    write_diagnosis(diagnosis, tmp_path)
    kept = list(csv.DictReader((tmp_path / "balanced.csv").open()))
    every = list(csv.DictReader((tmp_path / "clips.csv").open()))
    assert len(every) == 400
    assert {row["split"] for row in kept} == {"train", "val"}
    right = sum(row["id"].startswith("clip") for row in kept)
    assert right / len(kept) > 0.9  # of those kept
    assert right / sum(row["id"].startswith("clip") for row in every) > 0.95  # of those that should be
    for row in every:
        assert float(row["gap"]) == pytest.approx(float(row["audio_score"]) - float(row["visual_score"]), abs=2e-6)


def test_corrections_are_fitted_to_val_and_test_is_read_only_when_asked(tmp_path: Path) -> None:
    predictions = planted(1.5, 1.5, count=600, loud=4.0)
    thirds = Predictions(**vars(predictions) | {"splits": np.repeat(["train", "val", "test"], 200)})
    on_val, on_test = look(thirds, correct=True), look(thirds, correct=True, split="test")
    for one, other in zip(on_val.corrections, on_test.corrections, strict=True):
        assert one.correction == other.correction
        assert one.log_loss_drop.clear
        assert other.log_loss_drop.mean > 0.2
        assert one.result.ece < on_val.calibration["fused"].ece / 2
    test = thirds.of(thirds.splits == "test")
    best = on_test.best_correction
    before, after = test.logits["fused"], best.correction.apply(test.logits)
    rows = np.arange(200)
    expected = (after - log_softmax(before, axis=1))[rows, test.labels].mean()
    assert best.log_loss_drop.mean == pytest.approx(expected)
    assert "val, cross-fitted in 5 folds" in said(on_val)
    assert "test, fitted to val" in said(on_test)
    write_diagnosis(on_test, tmp_path)
    assert "TEST was read" in text_of(tmp_path / "diagnosis.html")
    assert "These are TEST clips" in text_of(tmp_path / "diagnosis.html")
    # What is asked of val must not depend on test.
    others = thirds.logits | {
        name: np.where(thirds.splits[:, None] == "test", 0, v) for name, v in thirds.logits.items()
    }
    changed = look(Predictions(**vars(thirds) | {"logits": others}), correct=True)
    assert [c.correction for c in changed.corrections] == [c.correction for c in on_val.corrections]
    assert said(changed) == said(on_val)


def test_the_page_and_the_numbers_of_a_trained_network(small_store: Store, tmp_path: Path) -> None:
    list(train(from_mapping(SMALL | {"method": "unimodal_losses", "epochs": 4}), small_store, tmp_path))
    predictions = store_predictions(tmp_path / "best.pt", small_store, ["train", "val"])
    trained = {"metrics": tmp_path / "metrics.parquet", "trainings": [tmp_path]}
    diagnosis = look(predictions, **trained, correct=True, method="unimodal_losses")
    write_diagnosis(diagnosis, tmp_path, small_store)
    text = text_of(tmp_path / "diagnosis.html")
    assert BROKEN not in text
    assert all(sentence.text in text for sentence in verdict(diagnosis))
    assert "http://" not in (tmp_path / "diagnosis.html").read_text().split('id="plotly"')[0]
    assert (tmp_path / "diagnosis.html").read_text().count("data:image") == 2 * text.count("P(spoiled)") > 0
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["accuracy"]["fused"] == pytest.approx(float((diagnosis.right["fused"]).mean()))
    for values in found["shapley"].values():
        worth = values["coalitions"]
        assert values["audio"] + values["visual"] == pytest.approx(worth["both"] - worth["none"])
    assert set(found["shapley"]) == {"read-outs", "mean features"}
    assert found["logit_shares"]["audio"] + found["logit_shares"]["visual"] == pytest.approx(1)
    assert len(found["cumulative_discrepancy"]["difference"]) == 4
    assert set(found["corrections"]) == {"temperature_weights", "entropy_gate", "learned_gate"}
    titles = [trace.get("name") for chart in charts_in(tmp_path / "diagnosis.html") for trace in chart["data"]]
    assert "S audio − S visual" in titles


def test_few_and_odd_clips_have_a_page_too(tmp_path: Path) -> None:
    three = planted(2.0, 1.0).of(np.array([0, 1, 2]))
    flat = Predictions(**vars(three) | {"logits": {name: 0 * v for name, v in three.logits.items()}, "splits": None})
    for predictions, split in ((three, "train"), (flat, None)):
        diagnosis = look(predictions, split=split)
        write_diagnosis(diagnosis, tmp_path)
        text = text_of(tmp_path / "diagnosis.html")
        assert BROKEN not in text
        assert "Only 3 clips" in text
        assert "No mixture was fitted" in text
        assert (tmp_path / "balanced.csv").read_text().count("\n") == 1
        json.loads((tmp_path / "diagnosis.json").read_text())


def test_what_cannot_be_diagnosed_is_refused() -> None:
    predictions = planted(2.0, 1.0, count=12)
    with pytest.raises(UserError, match="planted: no clips of split test; it has 6 of train, 6 of val"):
        look(predictions, split="test")
    with pytest.raises(UserError, match="6 clips are too few to fit corrections to"):
        look(predictions, correct=True)


def test_unimodal_logits_that_do_not_make_the_fused_ones_have_no_shares(tmp_path: Path) -> None:
    predictions = planted(2.0, 1.0)
    other = Predictions(
        **vars(predictions) | {"logits": predictions.logits | {"fused": predictions.logits["audio"] ** 2}}
    )
    diagnosis = look(other)
    assert diagnosis.shares is None
    assert any("do not add up to the fused logits" in note for note in diagnosis.notes)
    write_diagnosis(diagnosis, tmp_path)
    assert "their shares cannot be told" in text_of(tmp_path / "diagnosis.html")


def test_a_correction_is_advised_only_where_validation_shows_more_right_answers() -> None:
    """Not where it lowers the log loss alone, nor where test, or luck among a few clips, speaks for it."""
    loud = planted(1.5, 1.5, count=2000, loud=4.0)
    helped = look(loud, correct=True)
    assert helped.advised_correction
    gain = 100 * helped.advised_correction.validation_gain.mean
    assert f"Use the correction {helped.advised_correction.correction.name}" in " ".join(advice(helped))
    assert f"it adds {gain:+.1f} ±" in " ".join(advice(helped))
    # Far too sure, but in the right order already: the log loss falls, and no answer is better for it.
    sure = planted(1.5, 1.5, count=2000)
    sure = replace(sure, logits={name: 6 * values for name, values in sure.logits.items()})
    for split in ("val", "test"):
        splits = np.where(np.arange(2000) < 1000, "val", "test" if split == "test" else "train")
        found = look(replace(sure, splits=splits), split=split, correct=True)
        assert found.best_correction.log_loss_drop.clear
        assert found.advised_correction is None
        assert "Use the correction" not in " ".join(advice(found))
        assert "More right answers are not shown" in said(found)
    # Four answers of 200 turned right, none wrong: 2.0 points, more than 1.96 standard errors and yet no proof.
    few = np.zeros(200)
    few[:4] = 1
    for values, advised in ((few, False), (np.repeat(few, 3), True)):
        estimate = Estimate.of(values)
        assert estimate.clear
        assert Corrected(None, None, estimate, estimate, estimate).advised is advised
