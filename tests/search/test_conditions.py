"""Fields that a trial is asked for only where they can act: by their marks in the schema, and by `when`."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raygap.errors import UserError
from raygap.schema import acting, from_mapping
from raygap.search.plan import make_plan
from raygap.search.space import SearchSpace, check_space, drop_inert, own_fields, parse_space

WHEN = {"purify.threshold": {"uniform": [0.2, 0.9], "when": {"purify.epochs": [4, 10]}}}
STAGES = {"purify.epochs": {"choice": [0, 2, 4, 10]}}
METHODS = {
    "ogm.alpha": {"uniform": [0.1, 1.0]},
    "scores.components": {"randint": [2, 6]},
    "scores.separator": {"choice": ["scores1d", "scores2d"]},
    "model.readout": {"choice": ["split", "heads"], "when": {"method": ["joint", "gmm_scores"]}},
    "method": {"choice": ["ogm", "gmm_scores", "joint"]},
}


def parsed(space: dict[str, Any], fixed: dict[str, Any] | None = None) -> SearchSpace:
    return parse_space({"fixed": {"epochs": 20, **(fixed or {})}, "space": space}, "space.yaml", 10)


@settings(deadline=None)
@given(st.data())
def test_a_trial_is_asked_for_what_can_act_in_it_and_for_nothing_else(data: st.DataObject) -> None:
    space = parsed(WHEN | STAGES | METHODS, {"model.readout": "split"})
    asked = space.ask(lambda path: data.draw(st.sampled_from(space.values(path)), path))
    config = from_mapping(own_fields(space.fixed, asked))
    assert acting(asked, config) == list(asked)
    assert ("purify.threshold" in asked) == (asked["purify.epochs"] in (4, 10))
    assert ("ogm.alpha" in asked) == (asked["method"] == "ogm")
    assert ("model.readout" in asked) == (asked["method"] in ("joint", "gmm_scores"))
    assert ("scores.components" in asked) == (asked.get("scores.separator") == "scores2d")


def test_marks_that_name_each_other_do_not_keep_a_field_from_being_asked() -> None:
    space = parsed({"opm.q_base": {"choice": [0.0, 0.5]}, "opm.executed": {"choice": [0.0, 0.5]}}, {"method": "opm"})
    assert space.ask(lambda path: 0.5) == {"opm.q_base": 0.5, "opm.executed": 0.5}
    assert space.ask(lambda path: 0.0) == {"opm.q_base": 0.0}


def test_a_fixed_value_beside_a_range_is_what_a_trial_has_that_is_not_asked() -> None:
    entry = {"choice": [0.1, 0.2], "when": {"method": "joint"}}
    space = parsed({"method": {"choice": ["joint", "ogm"]}, "optimizer.lr": entry}, {"optimizer.lr": 0.05})
    asked = space.ask(lambda path: space.values(path)[-1])
    assert from_mapping(own_fields(space.fixed, asked)).optimizer.lr == 0.05


def test_every_value_of_a_condition_is_checked_with_what_hangs_on_it() -> None:
    space = {"model.fusion": {"choice": ["concat", "film"], "when": {"model.encoder": "resnet18"}}}
    space["model.encoder"] = {"choice": ["small_cnn", "resnet18"]}
    with pytest.raises(UserError, match="readout split needs fusion concat or sum"):
        check_space(parsed(space), "space.yaml")
    with pytest.raises(UserError, match=r"ogm\.alpha = "):
        check_space(parsed(METHODS | {"ogm.alpha": {"uniform": [0, 99]}}), "space.yaml")
    config = check_space(parsed(WHEN | STAGES | METHODS), "space.yaml")
    assert (config.method, config.purify.epochs) == ("ogm", 10)  # stages at their longest


def test_conditions_that_no_trial_meets_leave_a_field_out() -> None:
    kept, note = drop_inert(parsed(WHEN | {"purify.epochs": {"choice": [1, 2]}, "optimizer.lr": {"uniform": [0.1, 1]}}))
    assert list(kept.space) == ["purify.epochs", "optimizer.lr"]
    assert note.endswith("purify.threshold (needs purify.epochs one of 4, 10)")
    kept, note = drop_inert(parsed(WHEN | {"purify.epochs": {"randint": [0, 12]}}))
    assert not note  # 4 is no end of that range, but lies in it


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            WHEN | {"purify.epochs": {"choice": [0, 4], "when": {"purify.threshold": 0.5}}},
            "when: purify.threshold, purify.epochs wait for each other",
        ),
        (
            {"loss.focus": {"uniform": [0, 1], "when": {"purify.epoch": 1}}},
            "loss.focus: when: unknown field 'purify.epoch'; did you mean purify.epochs?",
        ),
        ({"loss.focus": {"uniform": [0, 1], "when": 3}}, "loss.focus: when: expected a mapping of fields to values"),
        ({"loss.focus": {"when": {"purify.epochs": 3}}}, "loss.focus: expected one distribution"),
    ],
)
def test_a_bad_condition_is_one_line(space: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(space)
    assert str(error.value).startswith("space.yaml: ")
    assert message in str(error.value)


def test_a_method_given_by_hand_is_not_searched(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("space: {method: {choice: [joint, ogm]}, optimizer.lr: {uniform: [0.01, 1]}}")
    assert "method" in make_plan("demo", None, file, {}, root=None, cache="").space
    plan = make_plan("demo", "ogm", file, {}, root=None, cache="")
    assert "method" not in plan.space
    assert plan.fixed["method"] == "ogm"
