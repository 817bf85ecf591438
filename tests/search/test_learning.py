"""An earlier study of the same space and store is known to the sampler, and is no part of the sweep's results."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import TrialState

from raygap.errors import UserError
from raygap.search.journal import open_storage
from raygap.search.learning import check_learnt, learn
from raygap.search.plan import Plan, make_folder, write_plan
from raygap.search.samplers import make_sampler
from raygap.search.study import METRIC, TRIAL_NUMBER, check_store, finished_trials
from raygap.search.suggestions import StudySearch
from raygap.tracking.run_folder import JOURNAL, LEARNT, best_trial, trial_rows

SPACE = {"loss.focus": {"uniform": [0, 5]}, "warmup.epochs": {"randint": [1, 3]}}


def searched(folder: Path, value: float = 0.5, trials: int = 3, **changes: object) -> tuple[Plan, StudySearch]:
    settings = {"dataset": "demo", "root": None, "cache": "", "trials": trials, "space": SPACE}
    plan = Plan(**settings | {"fixed": {"epochs": 4}} | changes)
    make_folder(folder, new=False)
    write_plan(plan, folder)
    sampler = partial(make_sampler, "random", plan.search_space, 0, trials, 0)
    searcher = StudySearch(plan.search_space, open_storage(folder / JOURNAL), 4, sampler)
    check_store(searcher.study, "key")
    for number in range(trials):
        suggested = searcher.suggest(str(number))
        epoch = 4 if number else 2  # the first is stopped early
        result = {"epoch": epoch, METRIC: value, "time_total_s": 1.0, "time_this_iter_s": 1.0}
        searcher.on_trial_complete(str(number), result if number < 2 else result | {"error": "no room"})
        assert suggested[TRIAL_NUMBER] == number
    return plan, searcher


def test_what_is_learnt_is_known_to_the_sampler_and_counts_nowhere(tmp_path: Path) -> None:
    searched(tmp_path / "before", value=0.9)
    plan, searcher = searched(tmp_path / "now", trials=0, learn_from=str(tmp_path / "before"))
    check_learnt(plan, "key")
    for _ in range(2):  # as where a sweep goes on
        learn(searcher.study, tmp_path / "before")
    lent = searcher.study.trials
    assert [trial.state for trial in lent] == [TrialState.COMPLETE, TrialState.PRUNED]  # none that failed
    assert [trial.user_attrs[LEARNT] for trial in lent] == ["trial 1 of before", "trial 0 of before"]
    assert finished_trials(searcher.study) == []
    assert best_trial(searcher.study) is None
    assert trial_rows(searcher.study)[1] == []
    assert searcher.take_up(5) == 5
    assert searcher.suggest("a")[TRIAL_NUMBER] == 2


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"space": {"loss.focus": {"uniform": [0, 9]}}}, "key", "searched another space, or another data set"),
        ({"dataset": "ave"}, "key", "searched another space, or another data set"),
        ({"fixed": {"epochs": 4, "optimizer.lr": 0.1}}, "key", "had optimizer.lr = its default, this sweep has 0.1"),
        ({}, "other", "used another store"),
        ({"learn_from": "nowhere"}, "key", "holds no sweep"),
    ],
)
def test_what_cannot_be_learnt_from_is_one_line(changes: dict, key: str, message: str, tmp_path: Path) -> None:
    plan, _ = searched(tmp_path / "before")
    with pytest.raises(UserError, match=message) as error:
        check_learnt(replace(plan, **{"learn_from": str(tmp_path / "before")} | changes), key)
    assert str(error.value).startswith("--learn-from ")
    assert "\n" not in str(error.value)
    check_learnt(replace(plan, fixed=plan.fixed | {"seed": 3}, learn_from=str(tmp_path / "before")), "key")
