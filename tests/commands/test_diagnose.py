"""diagnose and predict as their users call them."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from called import call, refusal
from media import BLUE, solid, write_mp4
from stores import SMALL

import raygap
from raygap.data.prepare import prepare
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.imbalance.correction import TemperatureWeights
from raygap.schema import from_mapping
from raygap.search.job import Outcome
from raygap.training import checkpoint
from raygap.training.run import train


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Path:
    """A network trained on the media of `data_set`; its store lies in `cache` beside it."""
    folder = tmp_path_factory.mktemp("trained")
    config = from_mapping(SMALL | {"method": "unimodal_losses", "prepare.seconds": 0.5, "compute.threads": 2})
    store = Store.open(prepare(read_manifest(data_set), config.prepare, folder / "cache", workers=2))
    list(train(config, store, folder))
    return folder / "best.pt"


def test_predict_then_diagnose_what_was_predicted(best: Path, data_set: Path, tmp_path: Path) -> None:
    write_mp4(tmp_path / "mute.mp4", solid(BLUE), None)
    (tmp_path / "broken.mp4").write_bytes(b"no media")
    given = [data_set / "manifest.csv", tmp_path / "mute.mp4", tmp_path / "broken.mp4"]
    written = call("predict", "--checkpoint", best, *given, "--out", tmp_path / "answers.parquet")
    assert written.exit_code == 0, written.output
    assert "1 of 14 clips could not be used" in written.stderr
    table = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [row["used"] for row in table] == ["audio+visual"] * 12 + ["visual", "none"]
    assert [row["reason"] for row in table[11:]] == ["", "audio: no audio stream", table[13]["reason"]]
    assert table[13]["reason"].startswith("unreadable: ")
    assert table[12]["fused_low"] == table[12]["visual_low"]
    assert table[12]["audio_low"] is None
    for row in table[:12]:
        assert row["fused_low"] + row["fused_high"] == pytest.approx(1)
        assert row["confidence"] == max(row["fused_low"], row["fused_high"])
        assert row[f"fused_{row['class']}"] == row["confidence"]

    mute = call("predict", "--checkpoint", best, tmp_path / "mute.mp4")
    [row] = csv.DictReader(io.StringIO(mute.stdout))
    assert row["used"] == "visual"
    assert row["audio_low"] == ""
    assert float(row["fused_low"]) == pytest.approx(table[12]["fused_low"], abs=1e-5)

    labelled = [row | {"label": row["id"].split("-")[0]} for row in table[:12]]
    with (tmp_path / "labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(labelled[0]))
        writer.writeheader()
        writer.writerows(labelled)
    looked = call("diagnose", tmp_path / "labelled.csv", "--out", tmp_path / "look")
    assert looked.exit_code == 0, looked.output
    assert "fused: probabilities" in looked.stdout
    right = [row["class"] == row["label"] for row in labelled]
    assert json.loads((tmp_path / "look/diagnosis.json").read_text())["accuracy"]["fused"] == np.mean(right)


def test_a_network_is_diagnosed_on_its_data(best: Path, data_set: Path) -> None:
    data = ("--dataset", "manifest", "--root", data_set, "--cache", best.parent / "cache")
    looked = call("diagnose", best, *data, "--split", "train")
    assert looked.exit_code == 0, looked.output
    assert "What to try:" in looked.stdout
    folder = best.parent / "diagnosis"
    assert "spoiled cannot be told" in looked.stdout or "probably spoiled:" in looked.stdout
    assert f"page: {folder / 'diagnosis.html'}" in looked.stdout
    rows = list(csv.DictReader((folder / "clips.csv").open()))
    assert {row["id"] for row in rows} == {f"{name}-train-{i}.mp4" for name in ("low", "high") for i in range(4)}
    (best.parent / "out.csv").write_text("id\nlow-train-0.mp4\n")
    less = ("--exclude", best.parent / "out.csv", "--out", best.parent / "less")
    assert call("diagnose", best, *data, "--split", "train", *less).exit_code == 0
    left = {row["id"] for row in csv.DictReader((best.parent / "less" / "clips.csv").open())}
    assert {row["id"] for row in rows} - left == {"low-train-0.mp4"}
    assert "too few to fit corrections to" in refusal(call("diagnose", best, *data, "--correct"))
    assert "lies in no sweep that would name its data; give --dataset" in refusal(call("diagnose", best))


def test_corrections_are_saved_and_used(best: Path, data_set: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    logits = {name: 4 * random.normal(size=(60, 2)) + np.eye(2)[labels] for name in ("audio", "visual")}
    names = np.array(["high", "low"])
    np.savez(tmp_path / "a.npz", labels=labels, class_names=names, **logits)
    looked = call("diagnose", tmp_path / "a.npz", "--correct")
    assert looked.exit_code == 0, looked.output
    assert "all, cross-fitted in 5 folds" in looked.stdout
    assert "--exclude: is for a network's data" in refusal(call("diagnose", tmp_path / "a.npz", "--exclude", best))
    saved = tmp_path / "a-diagnosis" / "correction-temperature_weights.json"
    assert f"correction: {saved}" in looked.stdout
    media = data_set / "low-train-0.mp4"
    confidence = []
    for options in ((), ("--correction", saved)):
        answered = call("predict", "--checkpoint", best, media, *options)
        assert answered.exit_code == 0, answered.output
        [row] = csv.DictReader(io.StringIO(answered.stdout))
        confidence.append(float(row["confidence"]))
    assert confidence[1] < confidence[0]
    np.savez(tmp_path / "b.npz", labels=labels, **logits)  # other class names
    call("diagnose", tmp_path / "b.npz", "--correct")
    other = tmp_path / "b-diagnosis" / "correction-temperature_weights.json"
    assert "fitted for other classes" in refusal(call("predict", "--checkpoint", best, media, "--correction", other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diagnose", "gone.npz"), "gone.npz: no such file"),
        (("diagnose", "gone.pt", "--dataset", "demo"), "gone.pt: no such checkpoint"),
        (("diagnose", "."), ".: holds no sweep"),
        (("predict", "--checkpoint", "gone.pt", "a.mp4"), "gone.pt: no such checkpoint"),
        (("predict", "--checkpoint", ".", "a.mp4"), ".: holds no sweep"),
        (("predict", "--checkpoint", "other.pt", "a.mp4"), "give the best.pt of a training, or its run folder"),
        (("predict", "--checkpoint", "gone.pt", "a.mp4", "--out", "a.txt"), "--out a.txt: unknown kind of file"),
    ],
)
def test_bad_calls_are_refused_in_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.pt").write_bytes(b"another's")
    assert message in refusal(call(*arguments))


def test_a_run_folder_stands_for_its_best_trial(finished_sweep: tuple[Path, Outcome], tmp_path: Path) -> None:
    folder, outcome = finished_sweep
    answered = [
        call("predict", "--checkpoint", given, tmp_path / "gone.mp4")
        for given in (folder, folder / "trials" / f"{outcome.best.number:04d}" / "best.pt")
    ]
    assert answered[0].stdout == answered[1].stdout
    assert "no such file" in answered[0].stdout


def test_a_correction_that_the_checkpoint_keeps_is_said_by_command_and_function(
    best: Path, data_set: Path, tmp_path: Path
) -> None:
    temperatures, weights = {"audio": 1.0, "visual": 2.0}, {"fused": 0.5, "audio": 0.5, "visual": 0.5}
    kept = TemperatureWeights(temperatures, weights).to_mapping()
    about = {"gain": 0.021, "half_width": 0.004, "clips": 300, "helps": True}
    checkpoint.save(checkpoint.load(best) | {"correction": kept | about}, tmp_path / "best.pt")
    media, said = data_set / "low-train-0.mp4", "answers corrected by temperature_weights, which the checkpoint keeps: "
    said += "+2.1 ± 0.4 points of accuracy on validation, cross-fitted; "
    for options, expected in (((), f"{said}--uncorrected leaves it out\n"), (("--uncorrected",), "")):
        assert call("predict", "--checkpoint", tmp_path / "best.pt", media, *options).stderr == expected
    answers = [raygap.predict(media, tmp_path / "best.pt", uncorrected=without) for without in (False, True)]
    assert [table.attrs["notes"] for table in answers] == [[f"{said}uncorrected=True leaves it out"], []]
    assert answers[0]["confidence"][0] != answers[1]["confidence"][0]


def test_when_nothing_could_be_used_the_exit_code_says_so(best: Path, tmp_path: Path) -> None:
    answered = call("predict", "--checkpoint", best, tmp_path / "gone.mp4")
    assert answered.exit_code == 1
    [row] = csv.DictReader(io.StringIO(answered.stdout))
    assert row["reason"] == "no such file: gone.mp4"
