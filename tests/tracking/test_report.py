"""The page as text: what it says of whole, partial and damaged runs. test_report_browser.py looks at it."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from raygap.config import load_yaml
from raygap.errors import UserError
from raygap.imbalance.spoiled import KINDS
from raygap.tracking.comparison_table import SHOWN, MethodResult
from raygap.tracking.report import sections
from raygap.tracking.report.page import write_report
from raygap.tracking.report.run import Run

BROKEN = "This part could not be made"


def text_of(page: Path) -> str:
    """What a reader sees, without scripts, styles, markup and text as it is."""
    body = re.sub(r"<(script|style|pre).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def charts_in(page: Path) -> list[dict]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(), flags=re.DOTALL)
    return [json.loads(chart) for chart in found]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy", ignore=shutil.ignore_patterns("tune")))


def started_run(folder: Path, trials: list[FrozenTrial]) -> Path:
    """A run folder with a plan and these trials, and nothing else."""
    folder.mkdir()
    plan = {"dataset": "small", "root": None, "trials": 9, "fixed": {"method": "joint", "epochs": 4}, "space": {}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(plan | {"cache": str(folder), "reader": {}}))
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    optuna.create_study(storage=storage, study_name="sweep", direction="maximize").add_trials(trials)
    return folder


def trial(state: TrialState, epochs: int, value: float | None = None, **attrs: str) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params={"loss.focus": 1.0},
        distributions={"loss.focus": FloatDistribution(0, 5)},
        intermediate_values={epoch: 0.1 * epoch for epoch in range(1, epochs + 1)},
        user_attrs={"epochs": epochs, "epochs_reused": 0, "seconds": 1.0, **attrs},
    )


def test_the_page_of_a_finished_sweep_says_what_its_files_say(finished_run: Path) -> None:
    page, run = finished_run / "report.html", Run(finished_run)
    text, charts = text_of(page), charts_in(page)
    assert BROKEN not in text
    interval = run.test.interval("test_accuracy")
    assert f"{100 * interval.mean:.1f} ± {100 * interval.half_width:.1f} %" in text
    assert f"trial {run.best.number}, chosen by it" in text
    assert all(name in text for name in run.best.params)
    attrs = [trial.user_attrs for trial in run.trials]
    trained = sum(a["epochs"] - a["epochs_reused"] for a in attrs)
    saved = sum(6 - t.user_attrs["epochs"] for t in run.trials if t.state == TrialState.PRUNED)
    assert f"{trained} trained" in text
    assert f"{sum(a['epochs_reused'] for a in attrs)} taken from a shared warm-up" in text
    assert (f"{saved} saved by early stopping" in text) == bool(saved)
    assert "--config" in page.read_text()
    assert "Nothing failed" in text
    assert run.worth.sentence in text
    assert all("".join(row[:3]).replace(" ", "") in text.replace(" ", "") for row in run.worth.table()[1:])
    # Every clip shown is on the list of those that are probably spoiled, and has its two pictures.
    listed = {row["id"] for row in csv.DictReader((finished_run / "spoiled.csv").open(newline=""))}
    assert listed == {str(run.suspects.ids[i]) for kind in KINDS for i in run.suspects.found.listed(kind)}
    shown = re.findall(r'<span class="id">([^<]+)</span>', page.read_text())
    assert set(shown) <= listed
    assert len(re.findall(r'src="data:image/(?:jpeg|png);base64', page.read_text())) == 2 * len(shown)
    # The validation curve drawn is the one that was measured.
    drawn = [trace for chart in charts for trace in chart["data"] if trace.get("name") == "visual"]
    assert drawn[0]["y"] == pytest.approx(run.metrics["val_visual_accuracy"], rel=1e-4)
    assert "http://" not in page.read_text().split('id="plotly"')[0]


def test_the_mixture_is_drawn_at_each_refit(finished_run: Path) -> None:
    run = Run(finished_run)
    [chart] = [chart for chart in charts_in(finished_run / "report.html") if "sliders" in chart["layout"]]
    steps = [int(step["label"]) for step in chart["layout"]["sliders"][0]["steps"]]
    fitted = [e for e, d in zip(run.metrics["epoch"], run.metrics["mixture_degenerate"], strict=True) if d is not None]
    assert steps == fitted
    bars = [trace for trace in chart["data"] if trace["type"] == "bar"]
    assert all(sum(trace["y"]) == len(run.ledger["clip"]) for trace in bars)


def corrupt(name: str, content: bytes = b"\x00not this") -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        for file in run.glob(name):
            file.write_bytes(content)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        found = list(run.glob(name))
        assert found
        for file in found:
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    return damage


@pytest.mark.parametrize(
    ("damage", "said", "kept"),
    [
        (remove("trials/*/ledger.parquet"), "ledger.parquet is missing", "± "),
        (corrupt("trials/*/ledger.parquet"), BROKEN, "± "),
        (remove("trials/*/metrics.parquet"), "metrics.parquet is missing", "two groups"),
        (corrupt("trials/*/metrics.parquet", b""), BROKEN, "± "),
        (remove("trials"), "config.yaml: no such file", "± "),
        (remove("seeds"), "The test split has not been read", "chosen by it"),
        (corrupt("seeds/*/test.csv", b"seed,test_accuracy\n1,\n"), BROKEN, "chosen by it"),
        (remove("best.yaml"), "best.yaml is not written yet", "± "),
        (remove("sweep.yaml"), "sweep.yaml: no such file", "Best configuration"),
        (corrupt("sweep.yaml", b"[1"), "sweep.yaml: not valid YAML", "Best configuration"),
        (remove("study.journal"), "No trial has started yet", "sweep"),
        (corrupt("study.journal", b"{}\n" * 3), "study.journal is damaged", "sweep"),
        (corrupt("study.journal", b""), "No trial has started yet", "sweep"),
    ],
)
def test_damage_costs_its_own_part(damage: Callable[[Path], None], said: str, kept: str, run: Path) -> None:
    damage(run)
    text = text_of(write_report(run))
    assert said in text
    assert kept in text
    assert "Do it again" in text


def test_the_page_says_what_made_the_sweep_and_older_folders_are_read(run: Path) -> None:
    plan, tested = load_yaml(run / "sweep.yaml"), next(run.glob("seeds/*/test.csv"))
    begun = plan.pop("made_by")
    text = text_of(run / "report.html")
    assert f"begun by raygap {begun['raygap']}" in text
    assert f"torch {begun['torch']}" in text
    before = Run(run).test
    rows = list(csv.reader(tested.open(newline="")))
    with tested.open("w", newline="") as file:
        csv.writer(file).writerows(row[: rows[0].index("raygap")] for row in rows)
    (run / "sweep.yaml").write_text(yaml.safe_dump(plan))
    assert Run(run).test == before
    assert "begun by" not in text_of(write_report(run))


def test_a_store_that_moved_costs_the_pictures_alone(run: Path) -> None:
    plan = yaml.safe_load((run / "sweep.yaml").read_text())
    (run / "sweep.yaml").write_text(yaml.safe_dump(plan | {"cache": str(run / "nowhere")}))
    page = write_report(run)
    assert "The store of the clips is not where it was" in text_of(page)
    assert "Clips to look at" in text_of(page)
    assert "data:image" not in page.read_text().split("<body>")[1].split('id="plotly"')[0]


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "No trial has started yet"),
        ([trial(TrialState.RUNNING, 2), trial(TrialState.PRUNED, 3)], "No trial is complete yet"),
        ([trial(TrialState.FAIL, 1, error="out of GPU memory")] * 2, "all 2 that ended have failed"),
        ([trial(TrialState.COMPLETE, 4, 0.4)], "What mattered can be said from two complete trials on"),
        ([trial(TrialState.COMPLETE, 4, 0.4)] * 3, "Value of each trial"),
    ],
)
def test_unfinished_runs_have_a_page_that_says_so(trials: list[FrozenTrial], said: str, tmp_path: Path) -> None:
    folder = started_run(tmp_path / "run", trials)
    text = text_of(write_report(folder))
    assert said in text
    assert BROKEN not in text
    if trials:
        ended = sum(t.state.is_finished() for t in trials)
        assert f"{ended} of 9" in text
    # The sweep that is at work appends to the journal at this moment.
    with (folder / "study.journal").open("a") as journal:
        journal.write('{"op_code": 4, "work')
    before = (folder / "study.journal").read_bytes()
    assert said in text_of(write_report(folder))
    assert (folder / "study.journal").read_bytes() == before


def test_a_figure_that_cannot_be_drawn_says_so_and_leaves_the_rest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no ink\nand more")

    monkeypatch.setattr(sections.plots, "learning_curves", fail)
    before = len(charts_in(run / "report.html"))
    page = write_report(run)
    assert f"{BROKEN}: RuntimeError: no ink" in text_of(page)
    assert len(charts_in(page)) == before - 1
    monkeypatch.setattr(sections.plots, "slices", fail)  # a whole section
    assert "Failed and left out" in text_of(write_report(run))


def test_a_comparison_that_the_run_is_part_of_stands_in_its_outcome(run: Path) -> None:
    seeds = {seed: dict.fromkeys(SHOWN, 0.5) | {"test_accuracy": seed / 4} for seed in (2, 3)}
    results = [MethodResult(name, 0.5, seeds) for name in ("joint", run.name)]
    (run.parent / "comparison.json").write_text(json.dumps([vars(result) for result in results]))
    text = text_of(write_report(run))
    assert "to joint" in text
    sentence = Run(run).worth.sentence
    assert sentence not in text  # the table says so of more methods
    (run.parent / "comparison.json").write_text(json.dumps([vars(results[0])]))
    assert sentence in text_of(write_report(run))
    tested = next(run.glob("seeds/*/test.csv"))
    tested.write_text("".join(tested.read_text().splitlines(keepends=True)[:3]))  # without references
    assert "Nothing was compared with it" in text_of(write_report(run))


def test_numbers_chosen_on_test_are_labelled(run: Path) -> None:
    plan = yaml.safe_load((run / "sweep.yaml").read_text())
    plan["fixed"]["protocol"] = "paper"
    (run / "sweep.yaml").write_text(yaml.safe_dump(plan))
    tested = next(run.glob("seeds/*/test.csv"))
    tested.write_text(tested.read_text().replace(",validation", ",paper"))
    text = text_of(write_report(run))
    assert "TEST accuracy (paper protocol)" in text
    assert text.count("PAPER PROTOCOL: epochs chosen on TEST") == 2  # beside the mean, and above the table
    assert "validation accuracy" not in text.lower()


def test_only_a_run_folder_has_a_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no sweep"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
