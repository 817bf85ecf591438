"""A real sweep, logged to a server by the real client: what is there, the published report, and the way back."""

import json
import shutil
from html import escape
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from wandb.sdk.lib import wbauth
from wandb_server import ENTITY, EVERY_EPOCH, KEY, Run, WandbServer

from raygap.config import load_yaml
from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.search.job import Outcome
from raygap.tracking.best_sources import find_best
from raygap.tracking.comparison_table import SHOWN, MethodResult, table
from raygap.tracking.wandb import queries as wandb_queries
from raygap.tracking.wandb.callback import sweep_log
from raygap.tracking.wandb.files import read_runs
from raygap.tracking.wandb.layout import read_note
from raygap.tracking.wandb.queries import Place, parse
from raygap.tracking.wandb.report import publish

AFTER_WARMUP = {"train/loss_align", "imbalanced_share"}
AT_REFIT = {
    *(f"mixture/{what}_{which}" for what in ("mean", "variance") for which in ("balanced", "imbalanced")),
    *("mixture/weight_imbalanced", "mixture/bic_difference", "mixture/ashman_d", "gap/histogram"),
}


@pytest.fixture
def server(account: WandbServer, finished_sweep: object) -> WandbServer:
    """The server that has the finished sweep, and no report yet; the user has a key."""
    account.reports.clear()
    return account


@pytest.fixture
def sweep(finished_sweep: tuple[Path, Outcome], tmp_path: Path) -> tuple[Path, Outcome]:
    """A copy of the finished sweep's folder, and its outcome."""
    folder, outcome = finished_sweep
    return Path(shutil.copytree(folder, tmp_path / "mine", ignore=shutil.ignore_patterns("tune"))), outcome


@pytest.fixture
def best(sweep: tuple[Path, Outcome], server: WandbServer) -> Run:
    """The best trial's run at the server."""
    return server.runs[read_note(sweep[0]).run_id(sweep[1].best.number)]


def test_every_epoch_of_every_trial_is_at_the_server(sweep: tuple[Path, Outcome], server: WandbServer) -> None:
    folder, outcome = sweep
    note = read_note(folder)
    assert (note.project, note.entity) == ("raygap", ENTITY)
    for trial in outcome.study.trials:
        run = server.runs[note.run_id(trial.number)]
        files = folder / "trials" / f"{trial.number:04d}"
        table = pq.read_table(files / "metrics.parquet").to_pylist()
        assert run.steps() == [row["epoch"] for row in table]
        for line, row in zip(run.history, table, strict=True):
            told = json.loads(line)
            assert told["val/macro_f1"] == row["val_macro_f1"]
            assert told["train/loss_fusion"] == row["train_loss_fusion"]
            assert told["stage"] == row["stage"]
            assert ("gap/histogram" in told) == (row["gap_counts"] is not None)
            assert ("mixture/bic_difference" in told) == (row["mixture_bic_difference"] is not None)
            assert not {"node_ip", "hostname", "pid"} & told.keys()
            if row["gap_counts"]:
                assert told["gap/histogram"]["values"] == row["gap_counts"]
                assert told["gap/histogram"]["bins"][0] == 0
        assert run.fields["groupName"] == note.group
        assert run.fields["tags"] == ["small", "gmm_adaptive"]
        assert run.summary["epochs_saved"] == 6 - len(table) + table[-1]["epochs_reused"]
        assert run.summary["trial_state"] == trial.state.name.lower()
        selected = table[table[-1]["best_epoch"] - 1]
        assert run.summary["best/val_accuracy"] == selected["val_accuracy"]
        assert run.summary["best_epoch"] == table[-1]["best_epoch"]
        made = run.config["raygap"]["value"]["made_by"]
        assert made["torch"] == load_yaml(folder / "sweep.yaml")["made_by"]["torch"]
        assert "host" not in made
        config = {name: entry["value"] for name, entry in run.config.items() if name not in ("_wandb", "raygap")}
        assert from_mapping(config) == from_mapping(load_yaml(files / "config.yaml"))


def test_everything_is_logged_by_its_name(sweep: tuple[Path, Outcome]) -> None:
    folder, outcome = sweep
    runs, note = read_runs(folder), read_note(folder)
    for trial in outcome.study.trials:
        for row in runs[note.run_id(trial.number)].history:
            assert row.keys() >= EVERY_EPOCH
            assert (row["stage"] != "adaptive") or row.keys() >= AFTER_WARMUP
            # The demo's few clips can make a fit degenerate.
            assert ("gap/histogram" not in row) or row["mixture/degenerate"] or row.keys() >= AT_REFIT
    logged = {name for run in runs.values() for row in run.history for name in row}
    assert logged >= EVERY_EPOCH | AFTER_WARMUP | AT_REFIT


def test_the_test_of_the_best_configuration_is_a_run_of_its_own(
    sweep: tuple[Path, Outcome], server: WandbServer
) -> None:
    folder, outcome = sweep
    run = server.runs[read_note(folder).run_id(outcome.best.number, "test")]
    assert run.fields["jobType"] == "test"
    assert run.summary["test/accuracy_mean"] == pytest.approx(outcome.test.interval("test_accuracy").mean)
    assert [json.loads(line)["seed"] for line in run.history] == [1, 2]
    paired = outcome.worth.ahead_of("unimodal_losses")
    assert run.summary["ahead_of/unimodal_losses_mean"] == pytest.approx(paired.interval.mean)
    assert run.summary["worth"] == outcome.worth.sentence
    assert any("figures/gap" in name for name in server.files)


def test_a_comparison_is_a_run_that_grows(account: WandbServer, tmp_path: Path) -> None:
    results = []
    for method, accuracy in (("joint", 0.5), ("ogm", 0.75)):
        seeds = {seed: dict.fromkeys(SHOWN, accuracy) for seed in (1, 2)}
        results.append(MethodResult(method, 0.25, seeds))
        with sweep_log(tmp_path, "small", None, "compared", None) as log:
            log.comparison(results, "2 trials")
    [run] = [run for run in account.runs.values() if run.project == "compared"]
    assert run.fields["jobType"] == "comparison"
    assert run.steps() == [3, 6]
    assert run.summary["joint/best_val_accuracy"] == 0.25
    assert run.summary["ogm/test_accuracy_mean"] == 0.75
    shown = [content.decode() for name, content in account.files.items() if f"{run.name}/media/html" in name]
    assert all(f"<td>{escape(cell)}</td>" in shown[-1] for row in table(results) for cell in row)


def test_no_key_where_it_does_not_belong(sweep: tuple[Path, Outcome]) -> None:
    leaks = [file for file in sweep[0].rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    assert not leaks


def test_every_source_tells_the_same_configuration(sweep: tuple[Path, Outcome], server: WandbServer) -> None:
    folder, outcome = sweep
    url = publish(folder)
    group = read_note(folder).group
    sources = [folder, folder / "wandb", f"{ENTITY}/raygap", f"{ENTITY}/raygap/{group}", url]
    sources += [f"{url}?accessToken=abc", f"{server.url}/{ENTITY}/raygap/groups/{group}/workspace?nw=x"]
    for source in map(str, sources):
        [found] = find_best(source)
        assert found.config == outcome.config, source
    values = sorted((t.value for t in outcome.study.trials if t.state.name == "COMPLETE"), reverse=True)
    for source in map(str, sources):
        assert [found.value for found in find_best(source, top=9)] == values, source
    losses = [[found.value for found in find_best(str(source), 9, "val_loss")] for source in sources]
    assert all(of_source == pytest.approx(losses[0]) == sorted(of_source) for of_source in losses)


def test_publishing_again_edits_the_same_report(sweep: tuple[Path, Outcome], server: WandbServer) -> None:
    folder, outcome = sweep
    first, second = publish(folder), publish(folder)
    assert first == second
    assert len(server.reports) == 1
    [view] = server.reports.values()
    spec = view["spec"]
    for panel in ("Parallel Coordinates Plot", "Parameter Importance", "Run Comparer", "Run History Line Plot"):
        assert f'"viewType":"{panel}"' in spec
    for text in ("loss.focus", "Held fixed", "fresh seeds", "mean", read_note(folder).group, "schema_version: 2"):
        assert text in spec
    assert f"{outcome.test.interval('test_accuracy').mean:.3f}" in spec
    server.reports.clear()  # somebody deletes it
    assert publish(folder) == second
    assert len(server.reports) == 1


def test_a_report_without_a_configuration_is_asked_for_its_runs(
    sweep: tuple[Path, Outcome], server: WandbServer
) -> None:
    url = publish(sweep[0])
    [view] = server.reports.values()
    spec = json.loads(view["spec"])
    view["spec"] = json.dumps(spec | {"blocks": [b for b in spec["blocks"] if b["type"] != "code-block"]})
    assert find_best(url)[0].config == sweep[1].config
    view["spec"] = json.dumps(spec | {"blocks": [b for b in spec["blocks"] if b["type"] == "paragraph"]})
    with pytest.raises(UserError, match="the report holds neither a configuration of raygap's nor runs"):
        find_best(url)
    server.reports.clear()
    with pytest.raises(UserError, match="no such report at W&B, or no permission"):
        find_best(url)


def test_what_cannot_be_read_back_is_said_in_a_line(
    sweep: tuple[Path, Outcome], server: WandbServer, best: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"{ENTITY}/gone .*: no such project at W&B, or no permission"):
        find_best(f"{ENTITY}/gone")
    server.runs["foreign"] = Run("theirs", "foreign", {"jobType": "trial"}, {"lr": {"value": 1}}, {"loss": 2})
    with pytest.raises(UserError, match="no complete trial with best_val_accuracy"):
        find_best(f"{ENTITY}/theirs")
    best.config["schema_version"]["value"] = 0
    with pytest.raises(UserError, match="a configuration of schema version 0, this raygap reads 1"):
        find_best(f"{ENTITY}/raygap")
    best.config["schema_version"]["value"] = 2
    best.config["loss"]["value"]["fokus"] = 2
    with pytest.raises(UserError, match=r"unknown field 'loss.fokus'; did you mean loss.focus"):
        find_best(f"{ENTITY}/raygap")
    del best.config["loss"]["value"]["fokus"]
    monkeypatch.setattr(wandb_queries, "TIMEOUT_S", 3)
    for failure, said in ((401, "accept the key"), (500, "answer in time"), ("hang", "answer in time")):
        server.failure = lambda operation, failure=failure: failure
        with pytest.raises(UserError, match=f"{ENTITY}/raygap .*: the server does not {said}"):
            find_best(f"{ENTITY}/raygap")
    asked = ("Runs", "SpecificReport")
    report = f"{server.url}/{ENTITY}/raygap/reports/T--Vmlldzox"
    for failure, said in ((403, "no permission to read it"), (429, "in time")):  # of one project, not of the key
        server.failure = lambda operation, failure=failure: failure if operation in asked else None
        for source in (f"{ENTITY}/raygap", report)[: 1 + (failure == 403)]:
            with pytest.raises(UserError, match=f"{source} ?.*: .*{said}"):
                find_best(source)
    server.failure = lambda operation: None
    del server.runs["foreign"]
    monkeypatch.delenv("WANDB_API_KEY")
    wbauth.unauthenticate_session()  # as in another process
    with pytest.raises(UserError, match="W&B wants a key"):
        find_best(f"{ENTITY}/raygap")


def test_publishing_says_what_is_missing(tmp_path: Path, sweep: tuple[Path, Outcome], server: WandbServer) -> None:
    with pytest.raises(UserError, match="was not logged to W&B"):
        publish(tmp_path)
    folder = sweep[0]
    kept, server.runs = server.runs, {}
    with pytest.raises(UserError, match="none of its trials is at W&B in team/raygap; send them first: wandb sync"):
        publish(folder)
    server.runs = kept


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("me/p", Place("me", "p")),
        ("me/p/g/1", Place("me", "p", group="g/1")),
        ("https://wandb.ai/me/p", Place("me", "p", server="cloud")),
        ("https://forge.coreweave.com/wandb/me/p/workspace?nw=1", Place("me", "p", server="cloud")),
        ("https://wandb.ai/me/p/groups/a%20b/workspace", Place("me", "p", group="a b", server="cloud")),
        ("https://wandb.ai/wandb/p/runs/ab/overview", Place("wandb", "p", run="ab", server="cloud")),
        ("https://wandb.ai/me/p/reports/A-b--Vmlldzox", Place("me", "p", report="Vmlldzox", server="cloud")),
        (
            "https://forge.coreweave.com/wandb/me/p/reports/A--Vmlldzo5OTk3?accessToken=x",
            Place("me", "p", report="Vmlldzo5OTk3", server="cloud"),
        ),
        ("https://wandb.me.org/me/p/reports/--Vmlldzo1MQ/edit", Place("me", "p", report="Vmlldzo1MQ==", server="own")),
    ],
)
def test_urls_old_and_new(source: str, place: Place) -> None:
    found = parse(source)
    server = {"https://api.forge.coreweave.com": "cloud", "https://wandb.me.org": "own", None: None}[found.server]
    assert (found.entity, found.project, found.group, found.run, found.report, server) == (
        place.entity,
        place.project,
        place.group,
        place.run,
        place.report,
        place.server,
    )


@pytest.mark.parametrize(
    "source",
    ["https://wandb.ai", "https://wandb.ai/me", "https://wandb.ai/me/p/reports", "https://wandb.ai/me/p/reports/T--x"],
)
def test_what_is_no_place_is_refused(source: str) -> None:
    with pytest.raises(UserError, match=r"not the URL of|lists reports"):
        parse(source)


def test_the_chosen_configuration_survives_the_way_through_w_and_b(sweep: tuple[Path, Outcome]) -> None:
    folder, outcome = sweep
    run = read_runs(folder)[read_note(folder).run_id(outcome.best.number)]
    config = {name: value for name, value in run.config.items() if name not in ("_wandb", "raygap")}
    assert yaml.safe_load(yaml.safe_dump(config)) == to_mapping(outcome.config)
