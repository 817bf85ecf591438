"""The plain trials that a sweep begins with, and the history that is pooled from them."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from stores import SMALL

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.search.journal import open_storage
from raygap.search.known import as_trial
from raygap.search.plan import Plan, make_plan
from raygap.search.pool import Pool, pooled_trials
from raygap.search.samplers import make_sampler
from raygap.search.scheduler import make_scheduler
from raygap.search.stopping import make_rule
from raygap.search.study import METRIC, TRIAL_NUMBER
from raygap.search.suggestions import StudySearch
from raygap.tracking.run_folder import JOURNAL, trial_folder
from raygap.training.histories import FOLDER
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
    searcher.begin_with([as_trial(known, space, 0) for known in plan.known])
    searcher.pool = Pool(plan, searcher.study, run, store, SharedWarmups(run.parent / WARMUPS, 1e9))
    searcher.scheduler = make_scheduler(searcher.study, make_rule("asha", SMALL["epochs"]), plan.fixed)
    searcher.scheduler.spares = searcher.pool.spares
    return searcher


def result(epoch: int, value: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, METRIC: value, "time_total_s": float(epoch), "time_this_iter_s": 1.0}


def complete(searcher: StudySearch, trial_id: str, run: Path, store: Store) -> np.ndarray:
    """As a whole training leaves it; returns the means of its scores."""
    folder = trial_folder(run, searcher._running[trial_id].trial.number)
    folder.mkdir(parents=True)
    ids = [store.clip_ids[row] for row in store.rows("train")]
    scores = np.random.default_rng(len(list(run.glob("trials/*")))).random((2, len(ids)))
    columns = {"clip": ids, "label": ["x"] * len(ids), "audio_mean": scores[0], "visual_mean": scores[1]}
    pq.write_table(pa.table(columns), folder / "ledger.parquet")
    searcher.on_trial_complete(trial_id, result(SMALL["epochs"]))
    return scores


def test_guided_trials_wait_for_the_plain_ones_and_name_what_is_pooled_from_them(run: Path, small_store: Store) -> None:
    plan = planned(run)
    searcher = begun(plan, run, small_store)
    names = iter(map(str, range(1000)))
    started = {name: searcher.suggest(name) for name in [next(names) for _ in range(12)]}
    started = {name: fields for name, fields in started.items() if fields}
    a, b, *others = started
    assert [started[name].get("method") for name in (a, b)] == ["unimodal_losses"] * 2
    # Others may start meanwhile, but none that wants a history, and only so many are looked through.
    assert others
    assert {started[name]["gap.source"] for name in others} == {"training"}
    assert searcher.suggest("later") is None
    aside = [t for t in searcher.study.trials if t.params.get("gap.source") == "history"]
    assert len(aside) == 4
    # One of the plain ones fails, and another takes its place.
    searcher.on_trial_complete(a, result(1) | {"error": "the loss became nan"})
    first = complete(searcher, b, run, small_store)
    c = next(names)
    fields = searcher.suggest(c)
    assert fields["method"] == "unimodal_losses"
    assert fields["optimizer.lr"] not in {started[name]["optimizer.lr"] for name in (a, b)}
    assert searcher.suggest("later") is None
    # A sweep that goes on after a kill waits, too, and goes on with what was begun.
    searcher = begun(plan, run, small_store)
    again = [searcher.suggest(next(names)) for _ in range(len(others) + 2)]
    assert [one for one in again if one] == [*(started[name] for name in others), fields]
    c = str(int(next(names)) - 2)
    second = complete(searcher, c, run, small_store)
    guided = [searcher.suggest(next(names)) for _ in aside]
    assert [one[TRIAL_NUMBER] for one in guided] == [trial.number for trial in aside]
    [key] = {one["history.pool"] for one in guided}
    assert {one["history.runs"] for one in guided} == {2}
    assert pooled_trials(searcher.study) == [started[b][TRIAL_NUMBER], fields[TRIAL_NUMBER]]
    for folder in (run, run.parent):
        table = pq.read_table(folder / FOLDER / f"{key}.parquet")
        for number, name in enumerate(("audio", "visual")):
            np.testing.assert_allclose(table[name].to_numpy(), (first + second)[number] / 2, rtol=1e-6)
    # It is settled: neither another plain trial nor another kill changes it, and who names one keeps it.
    searcher = begun(plan, run, small_store)
    again = [searcher.suggest(next(names)) for _ in range(len(others) + len(guided))]
    assert [one for one in again if "history.pool" in one] == guided


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
