import csv
from pathlib import Path

import pytest
from optuna.trial import TrialState
from stores import SMALL, write_store

from raygap.config import from_mapping, load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.search.plan import Plan, make_folder
from raygap.search.shared import Candidate, Swept, find_shared
from raygap.search.sweep import run_trials
from raygap.training.run import train

SPACE = {"optimizer.lr": {"loguniform": [0.001, 0.2]}, "warmup.epochs": {"randint": [1, 4]}}


def plan(dataset: str, **fixed: object) -> Plan:
    return Plan(dataset, None, trials=2, fixed=SMALL | fixed, space=SPACE, cache="", test_seeds=0)


def test_the_shared_configuration_is_the_best_on_average_of_all_data_sets(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    other = write_store(tmp_path / "store", seed=5)
    swept = []
    for name, store in (("first", small_store), ("second", other)):
        make_folder(tmp_path / name, new=True)
        # On the second, the longest warm-up of the first leaves no room.
        own = plan(name) if name == "first" else plan(name, epochs=4, **{"purify.epochs": 1})
        study = run_trials(own, tmp_path / name, store.path, concurrency=1)
        assert any(trial.state == TrialState.COMPLETE for trial in study.trials)
        swept.append(Swept(own, tmp_path / name, store.path))
    chosen, best = find_shared(swept, tmp_path, 1)
    rows = list(csv.DictReader((tmp_path / "shared.csv").open()))
    scores = [float(row["mean_normalised_score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert chosen.score(best) == scores[0]
    for row in rows:
        values = [float(row[f"val_accuracy_{name}"] or 0) / best[name] for name in best]
        assert float(row["mean_normalised_score"]) == pytest.approx(sum(values) / 2)
        assert row["failed"] or all(values)
    # What is written trains to what is claimed.
    for search in swept:
        config = from_mapping(load_yaml(search.folder / "shared.yaml"))
        *_, last = train(config, Store.open(search.store), tmp_path / "again" / search.plan.dataset)
        assert last["best_val_accuracy"] == chosen.accuracy[search.plan.dataset]


def test_a_data_set_on_which_it_fails_counts_nothing() -> None:
    half = Candidate("a", 0, {}, {"a": 0.8})
    assert half.score({"a": 0.8, "b": 0.5}) == 0.5
    assert Candidate("a", 1, {}, {"a": 0.4, "b": 0.5}).score({"a": 0.8, "b": 0.5}) == 0.75


def test_a_search_without_a_complete_trial_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run: no trial is complete"):
        find_shared([Swept(plan("demo"), tmp_path / "run", tmp_path)], tmp_path, None)
