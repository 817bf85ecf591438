"""The plain trials that a sweep begins with, and the history that is pooled from them."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from stores import SMALL, write_store

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.job import Outcome
from raygap.search.journal import open_storage
from raygap.search.kept import fetch_run
from raygap.search.known import as_trial
from raygap.search.plan import Plan, make_plan, read_plan, write_plan
from raygap.search.pool import Pool, pooled_trials
from raygap.search.samplers import make_sampler
from raygap.search.scheduler import make_scheduler
from raygap.search.stopping import make_rule
from raygap.search.study import METRIC, SEED_VALUES, TRIAL_NUMBER, finished_trials
from raygap.search.suggestions import StudySearch
from raygap.search.sweep import run_trials
from raygap.storage import Storage
from raygap.tracking.run_folder import BESIDE, JOURNAL, trial_folder
from raygap.training.histories import FOLDER, bring_pool
from raygap.training.run import train
from raygap.training.trunk import FOLDER as WARMUPS
from raygap.training.trunk import SharedWarmups

SPACE = """
fixed: {purify.epochs: 0}
space:
  optimizer.lr: {loguniform: [0.01, 0.1]}
  gap.source: {choice: [training, history]}
  loss.focus: {uniform: [0, 9]}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder."""
    (tmp_path / "runs" / "run").mkdir(parents=True)
    return tmp_path / "runs" / "run"


def planned(folder: Path, **fixed: Any) -> Plan:
    (folder / "space.yaml").write_text(SPACE)
    given = {"epochs": SMALL["epochs"]} | {path.replace("__", "."): value for path, value in fixed.items()}
    return make_plan("demo", "gmm_scores", folder / "space.yaml", given, root=None, cache="", trials=20)


def begun(plan: Plan, run: Path, store: Store) -> StudySearch:
    space = plan.search_space
    sampler = partial(make_sampler, "random", space, 0, plan.trials, len(plan.known))
    searcher = StudySearch(space, open_storage(run / JOURNAL), SMALL["epochs"], sampler)
    searcher.pool = Pool(plan, searcher.study, run, store, SharedWarmups(run.parent / WARMUPS, 1e9))
    searcher.begin_with([as_trial(known, space, 0) for known in plan.known])
    searcher.scheduler = make_scheduler(searcher.study, make_rule("asha", SMALL["epochs"]), plan.fixed)
    searcher.scheduler.spares = searcher.pool.spares
    return searcher


def result(epoch: int, value: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, METRIC: value, "time_total_s": float(epoch), "time_this_iter_s": 1.0}


def write_scores(folder: Path, store: Store, number: int) -> np.ndarray:
    """As a whole training leaves them in its ledger; returns their means."""
    folder.mkdir(parents=True)
    ids = [store.clip_ids[row] for row in store.rows("train")]
    scores = np.random.default_rng(number).random((2, len(ids)))
    columns = {"clip": ids, "label": ["x"] * len(ids), "audio_mean": scores[0], "visual_mean": scores[1]}
    pq.write_table(pa.table(columns), folder / "ledger.parquet")
    return scores


def complete(searcher: StudySearch, trial_id: str, run: Path, store: Store) -> np.ndarray:
    """Returns the means of the trial's scores."""
    number = searcher._running[trial_id].trial.number
    scores = write_scores(trial_folder(run, number), store, number)
    searcher.on_trial_complete(trial_id, result(SMALL["epochs"]))
    return scores


@pytest.mark.parametrize("fixed", [{}, {"gap__source": "history"}])
def test_trials_with_a_history_wait_for_the_plain_ones_and_name_what_is_pooled_from_them(
    fixed: dict[str, str], run: Path, small_store: Store
) -> None:
    plan = planned(run, **fixed)
    searcher = begun(plan, run, small_store)
    names = iter(map(str, range(1000)))

    def suggested(number: int) -> dict[str, dict[str, Any]]:
        found = {name: searcher.suggest(name) for name in islice(names, number)}
        return {name: fields for name, fields in found.items() if fields}

    started = suggested(6)
    a, b, *others = started
    assert [started[name]["method"] for name in (a, b)] == ["unimodal_losses"] * 2
    # Others may start meanwhile, but none that wants a history: where all do, they wait.
    assert [started[name].get("gap.source") for name in others] == ([] if fixed else ["training"] * 4)
    # One of the plain ones fails, and another takes its place.
    searcher.on_trial_complete(a, result(1) | {"error": "the loss became nan"})
    first = complete(searcher, b, run, small_store)
    [again] = suggested(1).values()
    assert again["method"] == "unimodal_losses"
    assert again["optimizer.lr"] not in {started[name]["optimizer.lr"] for name in (a, b)}
    # A sweep that goes on after a kill goes on with what was begun, and waits, too.
    begun_before = [*(started[name] for name in others), again]
    searcher = begun(plan, run, small_store)
    resumed = suggested(len(begun_before))
    assert list(resumed.values()) == begun_before
    assert all(one.get("gap.source") == "training" for one in suggested(1).values())
    second = complete(searcher, next(reversed(resumed)), run, small_store)
    guided = [one for one in suggested(12).values() if "history.pool" in one]
    assert len(guided) > 1
    assert {one["history.runs"] for one in guided} == {2}
    [key] = {one["history.pool"] for one in guided}
    assert pooled_trials(searcher.study) == [started[b][TRIAL_NUMBER], again[TRIAL_NUMBER]]
    for folder in (run, run.parent):
        table = pq.read_table(folder / FOLDER / f"{key}.parquet")
        for number, name in enumerate(("audio", "visual")):
            np.testing.assert_allclose(table[name].to_numpy(), (first + second)[number] / 2, rtol=1e-6)
    # It is settled: neither another kill nor another plain trial changes it.
    running = len([trial for trial in searcher.study.trials if trial.state == TrialState.RUNNING])
    searcher = begun(plan, run, small_store)
    assert [one for one in suggested(running).values() if "history.pool" in one] == guided


def test_a_plain_trial_is_not_stopped_early_while_its_scores_are_waited_for(run: Path, small_store: Store) -> None:
    searcher = begun(planned(run, warmup__epochs=0), run, small_store)
    fields = {name: searcher.suggest(name) for name in "abcd"}

    def goes_on(name: str, value: float) -> bool:
        trial = SimpleNamespace(config=fields[name])
        return searcher.scheduler.on_trial_result(None, trial, result(1, value)) == TrialScheduler.CONTINUE

    assert [goes_on(name, value) for name, value in (("c", 0.9), ("a", 0.1), ("d", 0.05))] == [True, True, False]
    for name in "ab":
        complete(searcher, name, run, small_store)
    searcher.suggest("e")
    assert searcher.pool.settled
    fields["again"] = fields["a"] | {TRIAL_NUMBER: fields["b"][TRIAL_NUMBER]}  # another plain one, of no use now
    assert not goes_on("again", 0.01)


def test_all_seeds_of_a_plain_trial_are_trained_and_pooled(run: Path, small_store: Store) -> None:
    searcher = begun(replace(planned(run), seeds_per_trial=2), run, small_store)
    searcher.seeds = 2
    numbers = {name: searcher.suggest(name)[TRIAL_NUMBER] for name in "abc"}
    scores = []
    for name in "ab":
        low = result(SMALL["epochs"], 0.1) | {SEED_VALUES: (0.1,)}
        if name == "b":  # the other's seeds were better
            assert not searcher.stops("b", low)
            assert searcher.stops("c", low)
        for place in ("", "seed-1"):
            scores.append(write_scores(trial_folder(run, numbers[name]) / place, small_store, len(scores)))
        searcher.on_trial_complete(name, result(SMALL["epochs"]) | {SEED_VALUES: (0.9, 0.9)})
    searcher.suggest("d")
    [file] = (run / FOLDER).iterdir()
    np.testing.assert_allclose(pq.read_table(file)["audio"].to_numpy(), np.mean(scores, axis=0)[0], rtol=1e-6)


def test_where_no_plain_trial_gives_scores_each_trial_trains_its_own(run: Path, small_store: Store) -> None:
    searcher = begun(planned(run), run, small_store)
    plain = 0
    for name in map(str, range(40)):
        fields = searcher.suggest(name)
        if fields and fields.get("method") == "unimodal_losses":
            plain += 1
            searcher.on_trial_complete(name, result(1) | {"error": "the loss became nan"})
        if fields and fields.get("gap.source") == "history":
            assert plain == 4
            assert "history.pool" not in fields
            break
    else:
        pytest.fail("no trial with a history was started")
    assert pooled_trials(searcher.study) == []
    assert len([t for t in searcher.study.trials if t.state == TrialState.FAIL]) == 4


def test_a_history_that_a_sweep_holds_fixed_must_be_there(run: Path, small_store: Store) -> None:
    with pytest.raises(UserError, match=f"history.pool = {'0' * 24}: no {FOLDER}/"):
        begun(planned(run, history__pool="0" * 24), run, small_store)


def short(folder: Path, trials: int, searched: str = "", **changes: Any) -> Plan:
    """A plan of two plain trials and guided ones that all want a history."""
    (folder / "space.yaml").write_text(f"space: {{loss.focus: {{uniform: [0, 9]}}, {searched}}}")
    fixed = SMALL | {"epochs": 3, "warmup.epochs": 1, "purify.epochs": 0, "gap.source": "history"}
    fixed |= changes.pop("fixed", {})
    made = make_plan("demo", "gmm_scores", folder / "space.yaml", fixed, root=None, cache="", trials=4)
    known = tuple(one for one in made.known if one.plain)
    return replace(made, **{"known": known, "trials": trials, "test_seeds": 0, "stopper": "after:1"} | changes)


def histories(run: Path, *numbers: int) -> list[np.ndarray]:
    """Of these trials, as they were used."""
    tables = [pq.read_table(trial_folder(run, number) / "ledger.parquet") for number in numbers]
    return [np.stack([table[f"{name}_history"].to_numpy() for name in ("audio", "visual")]) for table in tables]


def mean_scores(run: Path, *numbers: int) -> np.ndarray:
    """Of plain trials."""
    tables = [pq.read_table(trial_folder(run, number) / "ledger.parquet") for number in numbers]
    return np.mean([[table[f"{name}_mean"].to_numpy() for name in ("audio", "visual")] for table in tables], axis=0)


def test_machines_that_share_no_folder_have_one_history_for_trials_seeds_and_later_trainings(
    stored_sweep: tuple[Path, Outcome, Storage], stored_run: Storage, small_store: Store, tmp_path: Path
) -> None:
    run, outcome, kept = stored_sweep
    assert not outcome.failures()
    assert outcome.finished() == 3
    assert "The history is the scores of 2 plain trials (0, 1)." in outcome.about_epochs()
    assert "Scoring trainings" not in outcome.about_epochs()
    trials = outcome.study.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    config = from_mapping(load_yaml(trial_folder(run, 2) / "config.yaml"))
    np.testing.assert_allclose(histories(run, 2)[0], mean_scores(run, 0, 1), rtol=1e-6)
    for place in (kept, kept.at("..")):
        assert f"{FOLDER}/{config.history.pool}.parquet" in place.files()
    # So has a machine that knows the run folder alone, in a folder of another name.
    there = tmp_path / "there"
    there.mkdir()
    fetch_run(stored_run, there)
    before = signal.getsignal(signal.SIGINT)
    study = run_trials(replace(read_plan(run), storage=stored_run.uri, trials=4), there, small_store.path, 1)
    assert signal.getsignal(signal.SIGINT) is before  # or the next Ctrl-C would be lost
    assert [trial.value for trial in study.trials[:3]] == [trial.value for trial in trials]
    assert study.trials[3].user_attrs[BESIDE]["history.pool"] == config.history.pool
    np.testing.assert_array_equal(histories(there, 3)[0], histories(run, 2)[0])
    bring_pool(config, small_store, tmp_path / "far", there / "best.yaml")
    list(train(config, small_store, tmp_path / "far" / "0"))
    again, first = (pq.read_table(place / "ledger.parquet") for place in (tmp_path / "far/0", trial_folder(run, 2)))
    assert again.equals(first)


CHILD = """
import sys
from pathlib import Path
from raygap.search.plan import read_plan
from raygap.search.sweep import run_trials
folder = Path(sys.argv[1])
run_trials(read_plan(folder), folder, Path(sys.argv[2]), concurrency=2)
"""


@pytest.mark.cluster
def test_a_sweep_killed_while_it_scores_and_at_a_random_moment_goes_on_as_if_nothing_had_happened(
    run: Path, tmp_path: Path, ray_cluster: None
) -> None:
    """Twice with all its processes: what had ended stays, what was interrupted goes on, and the history is one."""
    store = write_store(tmp_path / "store", clips=240)
    plan = short(run, 5, searched="warmup.epochs: {randint: [1, 3]}", fixed={"epochs": 15})
    write_plan(plan, run)

    def epochs(number: int) -> list[int]:
        with suppress(OSError):  # none yet, or it is being written
            return pq.read_table(trial_folder(run, number) / "metrics.parquet")["epoch"].to_pylist()
        return []

    def killed(number: int, after: int, later: float) -> None:
        """So many seconds after so many epochs of a trial."""
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(run), str(store.path)],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            start_new_session=True,
        )
        end = time.monotonic() + 200
        while len(epochs(number)) < after and child.poll() is None:
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)
        assert epochs(number), "the sweep's process ended"
        time.sleep(later)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    killed(0, 1, 0)
    assert not (run / FOLDER).exists()
    killed(2, 2, random.uniform(0, 2))
    assert (run / FOLDER).exists()
    tables = {number: trial_folder(run, number) / "metrics.parquet" for number in range(5)}
    before = {number: table.read_bytes() for number, table in tables.items() if table.exists()}
    ended = {number for number in before if not (trial_folder(run, number) / "checkpoint.pt").exists()}
    study = run_trials(plan, run, store.path, 2)
    assert len(study.trials) == len(finished_trials(study)) == 5
    assert pooled_trials(study) == [0, 1]
    assert [trial.state for trial in study.trials[:2]] == [TrialState.COMPLETE] * 2
    assert len({trial.user_attrs[BESIDE]["history.pool"] for trial in study.trials[2:]}) == 1
    for used in histories(run, 2, 3, 4):
        np.testing.assert_allclose(used, mean_scores(run, 0, 1), rtol=1e-6)
    assert {number: tables[number].read_bytes() for number in ended} == {number: before[number] for number in ended}
    for trial in study.trials:
        assert epochs(trial.number) == list(range(1, trial.user_attrs["epochs"] + 1))
    # Of those that are whole, one that was interrupted, if there is one.
    whole = [trial.number for trial in study.trials[2:] if trial.state == TrialState.COMPLETE]
    number = min(whole, key=lambda number: (number in ended, number not in before))
    config = from_mapping(load_yaml(trial_folder(run, number) / "config.yaml"))
    places = run / "again" / "0", trial_folder(run, number)
    list(train(config, store, places[0]))
    for name in ("ledger", "metrics"):
        again, there = (pq.read_table(place / f"{name}.parquet") for place in places)
        kept = [column for column in again.column_names if column not in ("epochs_reused", "scoring_epochs")]
        assert again.select(kept).equals(there.select(kept))
