"""How the stages of a shorter training are shortened, in the plans of sweeps and in single trainings."""

from typing import Any

import pytest

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.schema import from_mapping
from raygap.search.plan import make_plan, trial_fields
from raygap.search.shorten import shorten_stages
from raygap.search.space import SEARCHABLE, SearchSpace

STAGES = ("warmup.epochs", "purify.epochs")


def stages(*plan: Any, **given: int) -> dict[str, Any]:
    dataset, method = plan
    made = make_plan(dataset, method, None, {p.replace("_", "."): v for p, v in given.items()}, root=None, cache="")
    made.check()
    return {path: (made.fixed | made.space).get(path) for path in STAGES}


def test_stages_and_their_ranges_shrink_with_the_training_in_proportion() -> None:
    short = {"warmup.epochs": {"randint": [0, 7]}, "purify.epochs": {"choice": [0, 2]}}
    assert stages("manifest", None, epochs=15) == short
    assert stages("cremad", None, epochs=15) == short
    assert stages("demo", "opm", epochs=5) == {"warmup.epochs": {"randint": [0, 4]}, "purify.epochs": 0}  # 0 stays
    assert stages("manifest", None, epochs=2) == {
        "warmup.epochs": {"randint": [0, 2]},
        "purify.epochs": 0,
    }
    assert stages("manifest", None, epochs=30) == {
        "warmup.epochs": {"randint": [0, 17]},
        "purify.epochs": {"choice": [0, 4]},
    }  # fits


def test_stages_that_are_shares_are_as_long_in_proportion_in_any_training() -> None:
    ranges = {12: [3, 7], 32: [8, 17], 60: [15, 31], 100: [25, 51]}
    for epochs, ends in ranges.items():
        assert stages("demo", "umt", epochs=epochs) == {"warmup.epochs": {"randint": ends}, "purify.epochs": 0}
    assert stages("demo", "umt") == {"warmup.epochs": {"randint": [3, 7]}, "purify.epochs": 0}
    plan = make_plan("demo", "umt", None, {"epochs": 60, "warmup.epochs": 5}, root=None, cache="")
    assert plan.fixed["warmup.epochs"] == 5
    assert plan.notes == ()


def test_where_the_search_of_a_stage_begins_shrinks_with_its_range() -> None:
    plan = make_plan("manifest", None, None, {"epochs": 15}, root=None, cache="")
    assert plan.fixed["warmup.epochs"] == 3  # of 8 of 40
    space = SearchSpace({"warmup.epochs": 2}, {"warmup.epochs": {"randint": [0, 5]}}, meant_for=12)
    longer = shorten_stages(space, {"epochs": 60})[0]
    assert (longer.fixed["warmup.epochs"], longer.space) == (10, {"warmup.epochs": {"randint": [0, 21]}})


def test_what_was_shortened_is_said_and_what_the_user_fixed_is_left_alone() -> None:
    plan = make_plan("manifest", None, None, {"epochs": 15, "purify.epochs": 5}, root=None, cache="")
    assert plan.fixed["purify.epochs"] == 5
    assert plan.notes == (
        "stages shortened in proportion to 15 epochs instead of 40: warmup.epochs 0 to 6 (was 0 to 16)",
    )
    plan = make_plan("manifest", None, None, {"epochs": 15, "warmup.epochs": 16}, root=None, cache="")
    with pytest.raises(UserError, match=r"exceed epochs \(15\); add --epochs 17, or --set warmup.epochs=14"):
        plan.check()


@pytest.mark.parametrize("method", SEARCHABLE)
@pytest.mark.parametrize("epochs", [2, 3, 15])
def test_every_method_can_be_searched_and_trained_for_few_epochs(method: str, epochs: int) -> None:
    config = make_plan("manifest", method, None, {"epochs": epochs}, root=None, cache="").check()
    assert config.warmup.epochs + config.purify.epochs < config.epochs == epochs
    if method.startswith("dus_"):
        return
    fields, _ = trial_fields("manifest", {}, {"method": method, "epochs": epochs})
    config = from_mapping(fields)
    find_method(method).check(config)
    assert config.warmup.epochs + config.purify.epochs < epochs


def test_other_distributions_and_lengths_that_are_no_numbers() -> None:
    def shortened(entry: dict[str, list], epochs: int) -> dict[str, Any]:
        space = SearchSpace({"epochs": 40}, {"warmup.epochs": entry, "loss.focus": {"uniform": [0, 1]}})
        return shorten_stages(space, {"epochs": epochs})[0].space.get("warmup.epochs", {})

    assert shortened({"choice": [0, 8, 20, 30]}, 20) == {"choice": [0, 4, 10, 15]}
    assert shortened({"lograndint": [2, 31]}, 20) == {"lograndint": [1, 16]}
    assert shortened({"quniform": [5, 30, 5]}, 20) == {"randint": [3, 16]}
    for entry in ({"choice": ["few"]}, {"uniform": [1, 30]}):  # check_space names them
        assert shortened(entry, 10) == entry


def test_a_single_training_has_what_the_data_set_fixes_beneath_but_a_whole_configuration_stands_alone() -> None:
    fields, notes = trial_fields("manifest", {}, {"loss.focus": 1.0})
    plan = make_plan("manifest", None, None, {}, root=None, cache="")
    assert {path: fields.get(path) for path in plan.fixed} == plan.fixed | {"loss.focus": 1.0}
    assert not notes
    partial, _ = trial_fields("manifest", {"prepare.frames": 1, "epochs": 3}, {})
    assert (partial["prepare.frames"], partial["prepare.frame_size"], partial["epochs"]) == (1, 112, 3)
    whole = from_mapping({"epochs": 3, "warmup.epochs": 1})
    fields, _ = trial_fields("manifest", {**whole.model_dump()}, {})
    assert from_mapping(fields) == whole
