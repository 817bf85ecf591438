import csv
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from stores import SMALL, write_store

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.journal import open_storage
from raygap.search.plan import Plan
from raygap.search.shared import Candidate, Swept, find_shared
from raygap.search.study import STUDY
from raygap.tracking.run_folder import JOURNAL
from raygap.training.run import train
from raygap.training.trunk import FOLDER, SharedWarmups

SPACE = {"optimizer.lr": {"loguniform": [0.001, 0.2]}, "warmup.epochs": {"randint": [1, 4]}}
REUSED = {"first-0000-on-second": 1, "second-0000-on-first": 1, "second-0001-on-first": 0}
DISTRIBUTIONS = {"optimizer.lr": FloatDistribution(0.001, 0.2, log=True), "warmup.epochs": IntDistribution(1, 3)}


def plan(dataset: str, **fixed: object) -> Plan:
    return Plan(dataset, None, trials=2, fixed=SMALL | fixed, space=SPACE, cache="", test_seeds=0)


def search(own: Plan, store: Store, folder: Path, *points: tuple[float, int]) -> Swept:
    """As a sweep leaves it: these learning rates and warm-ups are complete, and a trial was stopped early."""
    folder.mkdir()
    study = optuna.create_study(storage=open_storage(folder / JOURNAL), study_name=STUDY, direction="maximize")
    for number, point in enumerate(points):
        params = dict(zip(DISTRIBUTIONS, point, strict=True))
        trunk = SharedWarmups(folder.parent / FOLDER, 1e9)
        *_, last = train(from_mapping(own.fixed | params), store, folder / str(number), trunk=trunk)
        value = last["best_val_accuracy"]
        study.add_trial(create_trial(value=value, params=params, distributions=DISTRIBUTIONS))
    params = {"optimizer.lr": 0.1, "warmup.epochs": 1}
    study.add_trial(create_trial(value=1.0, state=TrialState.PRUNED, params=params, distributions=DISTRIBUTIONS))
    return Swept(own, folder, store.path)


def test_the_shared_configuration_is_the_best_on_average_of_all_data_sets(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    other = write_store(tmp_path / "store", seed=5)
    # On the second, the longest warm-up of the first leaves no room.
    shorter = plan("second", epochs=4, **{"purify.epochs": 2})
    swept = [
        search(plan("first"), small_store, tmp_path / "first", (0.05, 2), (0.02, 3)),
        search(shorter, other, tmp_path / "second", (0.05, 1), (0.005, 2)),
    ]
    chosen, best = find_shared(swept, tmp_path, 1)
    rows = list(csv.DictReader((tmp_path / "shared.csv").open()))
    assert [(row["source"], row["trial"]) for row in rows if row["failed"]] == [("first", "1")]
    assert sorted((row["source"], row["trial"]) for row in rows) == [(n, t) for n in best for t in ("0", "1")]
    scores = [float(row["mean_normalised_score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert chosen.score(best) == scores[0]
    for row in rows:
        values = [float(row[f"val_accuracy_{name}"] or 0) / best[name] for name in best]
        assert float(row["mean_normalised_score"]) == pytest.approx(sum(values) / 2)
        assert row["failed"] or all(values)
    # A learning rate of 0.05 has warmed up on both; the longer warm-up went on from the shorter one.
    tables = {run: pq.read_table(tmp_path / "shared" / run / "metrics.parquet") for run in REUSED}
    assert {run: table["epochs_reused"][-1].as_py() for run, table in tables.items()} == REUSED
    # What is written trains to what is claimed.
    for found in swept:
        config = from_mapping(load_yaml(found.folder / "shared.yaml"))
        *_, last = train(config, Store.open(found.store), tmp_path / "again" / found.plan.dataset)
        assert last["best_val_accuracy"] == chosen.accuracy[found.plan.dataset]


def test_a_data_set_on_which_it_fails_counts_nothing() -> None:
    half = Candidate("a", 0, {}, {"a": 0.8})
    assert half.score({"a": 0.8, "b": 0.5}) == 0.5
    assert Candidate("a", 1, {}, {"a": 0.4, "b": 0.5}).score({"a": 0.8, "b": 0.5}) == 0.75


def test_a_pooled_history_stays_with_its_data_set(tmp_path: Path) -> None:
    fields = {"gap.source": "history", "loss.focus": 3.0}
    candidate = Candidate("a", 0, fields | {"history.pool": "a" * 24, "history.runs": 2})
    pooled = {"history.pool": "b" * 24, "history.runs": 3}
    assert candidate.on(Swept(plan("b"), tmp_path, tmp_path, pooled)) == fields | pooled
    assert candidate.on(Swept(plan("c"), tmp_path, tmp_path)) == fields  # with scoring trainings of its own
    assert Candidate("a", 0, fields).on(Swept(plan("b"), tmp_path, tmp_path, pooled)) == fields


def test_a_search_without_a_complete_trial_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run: no trial is complete"):
        find_shared([Swept(plan("demo"), tmp_path / "run", tmp_path)], tmp_path, None)
