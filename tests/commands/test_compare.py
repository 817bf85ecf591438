"""compare.py as its users call it: what it refuses, and a comparison, begun from Python, that is added to."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from called import call, load, refusal

import raygap
from raygap import extras
from raygap.config import load_yaml
from raygap.search.comparison import Comparison, read_comparison, write_comparison

ASKED = Comparison("manifest", None, ("joint",), 2, None, 1, False, {}, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "joint"), "--dataset and --methods are needed"),
        (("--dataset", "demo", "--methods", " , "), "--dataset and --methods are needed"),
        (("--dataset", "demo", "--methods", "joint, omg"), "unknown method 'omg'; did you mean"),
        (("--dataset", "nope", "--methods", "joint"), "unknown data set"),
        (("--dataset", "demo", "--methods", "joint", "--trials", "2", "--budget", "9"), "contradict each other"),
        (("--dataset", "demo", "--methods", "joint", "--set", "method=ogm"), "--methods names them"),
        (("--dataset", "demo", "--methods", "joint", "--shared"), "--shared: one data set has nobody to share with"),
        (
            ("--dataset", "demo", "--methods", "joint", "--set", "compute.workers=900", "--set", "model.norm=group"),
            "the cluster has places for",
        ),
        (("--resume", "nowhere"), "holds no comparison"),
        (("--resume", "earlier", "--space", "x.yaml"), "--space: a resumed comparison keeps it"),
        (("--dataset", "demo", "--methods", "joint", "--space", "x.yaml"), "x.yaml"),
        (("--resume", "earlier", "--epochs", "3"), "--epochs: a resumed comparison keeps it"),
        (("--resume", "earlier", "--protocol", "paper"), "--protocol: a resumed comparison keeps it"),
        (("--resume", "timed", "--trials", "3"), "timed compares at 60 seconds of trials"),
    ],
)
def test_what_it_refuses(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_comparison(ASKED, tmp_path / "earlier")
    write_comparison(replace(ASKED, budget=60.0), tmp_path / "timed")
    assert message in refusal(call("compare", *arguments))
    assert {path.name for path in tmp_path.iterdir()} == {"earlier", "timed"}


def test_what_a_resumed_comparison_takes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_comparison(ASKED, tmp_path)
    compare = load("compare")
    seen: dict[Path, Comparison] = {}
    monkeypatch.setattr(compare, "_compare_all", lambda comparisons, *others: seen.update(comparisons) or True)
    result = call("compare", "--resume", tmp_path, "--trunk-gb", "0", "--max-quarantine", "0.2")
    assert result.exit_code == 0, result.output
    assert seen == {tmp_path: replace(ASKED, trunk_gb=0.0, max_quarantine=0.2)}


def test_methods_get_the_same_and_a_comparison_is_gone_on_with_and_added_to(
    data_set: Path,
    tmp_path: Path,
    ray_cluster: None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "c"
    tiny = {"model.encoder": "small_cnn", "model.width": 4, "model.norm": "group", "optimizer.batch_size": 8}
    tiny |= {"prepare": {"frames": 1, "frame_size": 8, "seconds": 0.5, "n_mels": 16}}
    few = {"trials": 2, "seeds": 1, "epochs": 2, "set": tiny, "concurrency": 1, "cache": tmp_path / "cache"}
    capfd.readouterr()
    first = raygap.compare("manifest", ["joint", "joint"], root=data_set, out=out, **few)
    assert capfd.readouterr() == ("", "")
    assert list(first.table.index) == list(first.runs) == ["joint"]
    assert first.table.loc["joint", "test_accuracy_mean"] == first.runs["joint"].test.mean
    assert len(first.seeds) == 1
    added = call("compare", "--resume", out, "--methods", "audio_only", "--seeds", "2", "--concurrency", "1")
    assert added.exit_code == 0, added.output
    assert read_comparison(out).methods == ("joint", "audio_only")
    rows = list(csv.DictReader((out / "seeds.csv").open()))
    assert [(row["method"], row["seed"], row["trials"]) for row in rows] == [
        (method, seed, "2") for method in ("joint", "audio_only") for seed in ("1", "2")
    ]
    assert "audio_only" in added.output
    assert "None of 1 method is clearly better than joint" in added.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'href="joint/report.html"' in page
    assert 'href="audio_only/report.html"' in page
    results = json.loads((out / "comparison.json").read_text())
    assert [result["method"] for result in results] == ["joint", "audio_only"]
    for result in results:
        assert sorted(result["seeds"]) == ["1", "2"]
        assert result["cost"]["trials"] == 2
        assert result["cost"]["epochs"] <= 4
        plan = load_yaml(out / result["method"] / "sweep.yaml")
        assert {"optimizer.lr", "optimizer.weight_decay"} <= set(plan["space"])

    # Once more: nothing is searched or trained again, and the numbers are the same.
    def written() -> dict[Path, float]:
        return {file: file.stat().st_mtime for file in out.rglob("metrics.parquet")}

    monkeypatch.setitem(extras.EXTRAS, "report", ("no-report",))  # these were
    before = written()
    assert len(before) == 2 * (2 + 2)
    again = raygap.compare(resume=out)
    assert list(again.table["test_accuracy_mean"]) == [result.test.mean for result in again.runs.values()]
    assert json.loads((out / "comparison.json").read_text()) == results
    assert written() == before
