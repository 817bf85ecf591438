"""Each sampler suggests points of the space, is told of trials that were stopped, and goes on where a sweep goes on."""

from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from raygap.errors import UserError
from raygap.search.journal import open_storage
from raygap.search.known import Known, as_trial
from raygap.search.plan import Plan, Sampler
from raygap.search.samplers import grid, make_sampler, start_up
from raygap.search.scheduler import make_scheduler
from raygap.search.space import SearchSpace, holds
from raygap.search.stopping import make_rule
from raygap.search.study import ENDED, METRIC, TRIAL_NUMBER, finished_trials
from raygap.search.suggestions import StudySearch
from raygap.tracking.objectives import front, judged, parse_metric
from raygap.tracking.run_folder import best_trial, own_trials, trial_rows

SPACE = SearchSpace(
    {"method": "gmm_scores", "epochs": 4},
    {
        "loss.focus": {"uniform": [0, 5]},
        "optimizer.lr": {"loguniform": [0.001, 1]},
        "mixture.refit_every": {"randint": [1, 4]},
        "model.fusion": {"choice": ["concat", "sum"]},
        "purify.epochs": {"choice": [0, 1]},
        "purify.threshold": {"uniform": [0.2, 0.9], "when": {"purify.epochs": 1}},
    },
)
SMALL = SearchSpace({}, {"mixture.refit_every": {"randint": [1, 4]}, "model.fusion": {"choice": ["concat", "sum"]}})


def searched(
    journal: Path, name: Sampler, space: SearchSpace = SPACE, trials: int = 12, metric: str = "accuracy"
) -> StudySearch:
    searcher = StudySearch(space, open_storage(journal), 4, partial(make_sampler, name, space, 0, trials, 1), metric)
    searcher.begin_with([as_trial(Known("defaults", {}), space, 0)])
    searcher.scheduler = make_scheduler(searcher.study, make_rule("none", 4), {})
    return searcher


def trained(searcher: StudySearch, trial_id: str) -> dict[str, Any]:
    """A trial that is stopped early unless its number is even."""
    suggested = searcher.suggest(trial_id)
    if not isinstance(suggested, dict):
        return {}
    for epoch in range(1, 5 if suggested[TRIAL_NUMBER] % 2 == 0 else 3):
        value = epoch / 10 + suggested.get("loss.focus", 0) / 50
        last = {"epoch": epoch, METRIC: value, "time_total_s": epoch, "time_this_iter_s": 1.0}
        searcher.on_trial_result(trial_id, last)
    searcher.on_trial_complete(trial_id, last)
    return suggested


@pytest.mark.parametrize("name", get_args(Sampler))
def test_a_sweep_goes_on_with_every_sampler_nothing_lost_or_counted_twice(name: Sampler, tmp_path: Path) -> None:
    points = []
    for start in (0, 4, 8):  # three processes
        searcher = searched(tmp_path / "journal", name)
        assert searcher.take_up(12) == 12 - start
        interrupted = searcher.suggest("interrupted")
        again = searched(tmp_path / "journal", name)
        points += [again.suggest("x")]
        assert points[-1] == interrupted
        result = {"epoch": 4, METRIC: 0.3, "time_total_s": 1.0, "time_this_iter_s": 1.0}
        again.on_trial_complete("x", result)
        points += [trained(again, f"{start}-{i}") for i in range(3)]
    trials = own_trials(again.study)
    assert len(trials) == len(finished_trials(again.study)) == 12
    assert again.take_up(12) == 0
    assert [point.pop(TRIAL_NUMBER) for point in points] == [trial.number for trial in trials]
    unlike = {tuple(sorted(point.items())) for point in points}
    assert len(unlike) == 12
    assert points[0] == {"loss.focus": 3.0, "optimizer.lr": 0.05, "mixture.refit_every": 1} | {
        "model.fusion": "concat",
        "purify.epochs": 0,
    }
    for point in points:
        assert all(holds(path, SPACE.space[path], value) for path, value in point.items())
        assert ("purify.threshold" in point) == (point["purify.epochs"] == 1)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_methods_of_as_many_fields_get_other_points(tmp_path: Path) -> None:
    def points(method: str) -> list[float]:
        space = SearchSpace({"method": method, "epochs": 4}, {"optimizer.lr": {"loguniform": [0.001, 1]}})
        searcher = searched(tmp_path / method, "tpe", space)
        return [trained(searcher, str(i))["optimizer.lr"] for i in range(4)]

    first, second, again = points("joint"), points("ogm"), points("joint")
    assert first[0] == second[0] == 0.05  # the default
    assert not set(first[1:]) & set(second[1:])
    assert len(set(first + again)) == 8  # and a sweep that goes on gets new ones


@pytest.mark.parametrize(("trials", "known", "expected"), [(12, 1, 3), (12, 4, 5), (100, 3, 10), (2, 1, 2)])
def test_the_sampler_begins_early_in_a_small_budget(trials: int, known: int, expected: int) -> None:
    assert start_up(trials, known) == expected


@pytest.mark.parametrize("name", ["random", "grid", "tpe"])
def test_a_configuration_that_was_tried_is_answered_and_a_space_that_is_searched_through_ends_the_search(
    name: Sampler, tmp_path: Path
) -> None:
    searcher, seen = searched(tmp_path / "journal", name, SMALL, trials=50), []
    while point := trained(searcher, str(len(seen))):
        seen.append(point)
    unlike = {(point["mixture.refit_every"], point["model.fusion"]) for point in seen}
    assert len(seen) == len(unlike) == len(finished_trials(searcher.study)) == 6
    assert searcher.study.user_attrs[ENDED]


def test_what_another_process_trains_just_now_is_waited_for(tmp_path: Path) -> None:
    one = SearchSpace({}, {"model.fusion": {"choice": ["concat"]}})
    searcher = searched(tmp_path / "journal", "random", one)
    assert searcher.suggest("a")[TRIAL_NUMBER] == 0
    assert searcher.suggest("b") is None
    searcher.on_trial_complete("a", {"epoch": 4, METRIC: 0.3, "time_total_s": 1.0, "time_this_iter_s": 1.0})
    assert searcher.suggest("b") == StudySearch.FINISHED
    assert len(finished_trials(searcher.study)) == 1


def test_a_grid_has_the_ends_of_every_range_and_no_more_points_than_trials() -> None:
    values = grid(SPACE, 100)
    assert values["loss.focus"] == [0.0, 5.0]
    assert values["optimizer.lr"] == pytest.approx([0.001, 1])
    assert values["mixture.refit_every"] == [1, 3]
    finer = grid(SearchSpace({}, {"warmup.epochs": {"qrandint": [5, 40, 5]}, "loss.focus": {"uniform": [0, 2]}}), 16)
    assert finer == {"warmup.epochs": [5, 15, 30, 40], "loss.focus": pytest.approx([0, 2 / 3, 4 / 3, 2])}


@pytest.mark.parametrize("name", ["tpe", "gp", "qmc", "random"])
def test_several_metrics_are_all_known_to_the_sampler_and_the_first_ranks(name: Sampler, tmp_path: Path) -> None:
    for start in (0, 4):
        searcher = searched(tmp_path / "journal", name, metric="loss,accuracy")
        for number in range(start, start + 4):
            suggested = searcher.suggest(str(number))
            assert suggested[TRIAL_NUMBER] == number
            loss, accuracy = 1 + suggested["loss.focus"], suggested["loss.focus"]
            row = {"best_epoch": 4, "epoch": 4, "val_loss": loss, "val_accuracy": accuracy}
            [told] = judged([row], searcher.objectives)
            assert told[METRIC] == -loss  # what Tune sees: more is better
            searcher.on_trial_complete(str(number), told | {"time_total_s": 1.0, "time_this_iter_s": 1.0})
    trials = own_trials(searcher.study)
    assert [trial.user_attrs["values"]["loss"] for trial in trials] == [trial.value for trial in trials]
    assert best_trial(searcher.study).value == min(trial.value for trial in trials)
    assert len(front(trials, searcher.objectives)) == len(trials)  # what lowers the loss lowers the accuracy
    header, rows = trial_rows(searcher.study)
    assert header[2:4] == ["best_val_loss", "best_val_accuracy"]
    assert all(row[2] - row[3] == pytest.approx(1) for row in rows)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_the_front_is_what_nothing_exceeds(points: list[tuple[int, int]]) -> None:
    objectives = parse_metric("accuracy,loss")
    trials = [create_trial(values=[1.0], user_attrs={"values": {"accuracy": a, "loss": b}}) for a, b in points]
    kept = {tuple(trial.user_attrs["values"].values()) for trial in front(trials, objectives)}
    exceeded = {(a, b) for a, b in points if any((c >= a and d <= b and (c, d) != (a, b)) for c, d in points)}
    assert kept == set(points) - exceeded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "f1"}, "--metric f1: no metric 'f1'; choose from accuracy, macro_f1, loss, worst_modality"),
        ({"metric": "loss,loss"}, "--metric loss,loss: names one twice"),
        ({"metric": "accuracy,loss", "seeds_per_trial": 2}, "--seeds-per-trial 2: takes one metric, not accuracy,loss"),
        ({"metric": "accuracy,loss", "sampler": "cmaes"}, "the sampler cmaes knows one metric"),
        ({"metric": "worst_modality", "fixed": {"method": "audio_only"}}, "audio_only has one modality"),
    ],
)
def test_a_metric_that_cannot_be_had_is_one_line(settings: dict[str, Any], message: str) -> None:
    space = {"optimizer.lr": {"uniform": [0.01, 1]}}
    plan = Plan(**{"dataset": "demo", "root": None, "trials": 3, "fixed": {}, "space": space, "cache": ""} | settings)
    with pytest.raises(UserError) as error:
        plan.check()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_configuration_of_several_seeds_is_judged_by_their_mean_and_given_up_when_it_cannot_catch_up(
    tmp_path: Path,
) -> None:
    def told(trial_id: str, *values: float) -> bool:
        result = {"epoch": 4, METRIC: values[-1], "seed_values": values, "epochs_in_all": 4 * len(values)}
        result |= {"time_total_s": float(len(values)), "time_this_iter_s": 1.0}
        searcher.on_trial_result(trial_id, result)
        if stopped := searcher.stops(trial_id, result) or len(values) == 3:
            searcher.on_trial_complete(trial_id, result)
        return stopped

    searcher = searched(tmp_path / "journal", "random")
    searcher.seeds = 3
    assert searcher.suggest("a")[TRIAL_NUMBER] == 0
    assert [told("a", 0.6), told("a", 0.6, 0.8), told("a", 0.6, 0.8, 0.7)] == [False, False, True]
    searcher.suggest("b")
    assert told("b", 0.4)  # 0.4, 0.8 and 0.8 would be no better than 0.7
    searcher.suggest("c")
    assert [told("c", 0.55), told("c", 0.55, 0.5)] == [False, True]
    interrupted = searcher.suggest("d")
    assert not told("d", 0.9)
    again = searched(tmp_path / "journal", "random")
    again.seeds = 3
    searcher = again
    assert searcher.suggest("e") == interrupted
    assert [told("e", 0.9), told("e", 0.9, 0.5), told("e", 0.9, 0.5, 0.8)] == [False, False, True]
    trials = searcher.study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    assert [trials[0].value, trials[3].value] == pytest.approx([0.7, 2.2 / 3])
    assert trials[3].user_attrs["seed_values"] == [0.9, 0.5, 0.8]
    assert [trial.user_attrs["epochs"] for trial in trials] == [12, 4, 8, 12]
