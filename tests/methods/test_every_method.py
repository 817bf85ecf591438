"""What holds for every listed method: it trains, resumes, shares warm-ups rightly, and its own space suits it."""

from typing import Any

import pytest
from stores import SMALL

from raygap.config import flatten
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.methods.base import Method
from raygap.schema import acting, field_paths, from_mapping
from raygap.search.plan import make_plan
from raygap.search.space import load_space
from raygap.testing import check_method
from raygap.training.checkpoint import dumps, loads
from raygap.training.trainer import Trainer
from raygap.training.trunk import warmup_key

OWN: dict[str, dict[str, Any]] = {
    "gradient_blending": {"gradient_blending.super_epoch": 1},
    "relearning": {"relearning.period": 0.25, "relearning.times": 2},
    "reconboost": {"reconboost.boost_epochs": 1, "reconboost.rectify_epochs": 1},
    # After one epoch neither modality is sure of anything, and which one a clip trains hangs on bf16's last bits.
    "remix": {"warmup.epochs": 2},
}
"""Fields with which a short training shows all of a method."""


def fields(method: str) -> dict[str, Any]:
    """Of a training of 4 epochs, with what the method's own space holds fixed."""
    fixed = {path: value for path, value in load_space("none", method, None).fixed.items() if path != "method"}
    return fixed | OWN.get(method, {})


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_does_what_is_asked_of_all(method: str, small_store: Store) -> None:
    check_method(method, fields(method), small_store)


def test_methods_that_share_a_warmup_train_the_same_warmup(small_store: Store) -> None:
    warmups: dict[str, dict[str, Trainer]] = {}
    for name, method in METHODS.items():
        config = from_mapping(SMALL | {"method": name, "warmup.epochs": 2, "purify.epochs": 0})
        try:
            trainer = Trainer(config, small_store)
        except UserError:  # it takes no such warm-up
            continue
        trainer.train_epoch()
        warmups.setdefault(warmup_key(config, "store", method), {})[name] = trainer
    for trainers in warmups.values():
        saved = dumps(next(iter(trainers.values())).state_dict())
        for trainer in trainers.values():
            forked = Trainer(trainer.config, small_store)
            forked.load_state_dict(loads(saved))
            assert str(trainer.network.state_dict()) == str(forked.network.state_dict())
            for _ in range(2):
                assert forked.train_epoch() == trainer.train_epoch()
    assert 1 < len(warmups) < len(METHODS)


@pytest.mark.parametrize("dataset", ["demo", "cremad"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_methods_own_space_is_one_that_it_can_work_with(method: str, dataset: str) -> None:
    plan = make_plan(dataset, method, None, {}, root=None, cache="")
    config = plan.check()
    assert config.method == method
    assert set(plan.space) <= set(flatten(config.model_dump()))


def test_the_flags_that_marks_of_fields_ask_for_are_true() -> None:
    own_losses = {name for name, method in METHODS.items() if method.plain_terms is not Method.plain_terms}
    assert own_losses == {name for name, method in METHODS.items() if not method.plain_unimodal}
    by_itself = {name for name, m in METHODS.items() if m.separate is not Method.separate and m.guided}
    assert by_itself == {"gmm_adaptive", "gmm_scores"}  # gmm_adaptive's goes by the mixture over the gaps
    assert {name for name, method in METHODS.items() if method.own_separator} == {"gmm_scores"}


def other_value(path: str, value: Any, method: str) -> Any:
    """Another value that the field may have."""
    if path == "history.pool":  # a key, or none
        return 24 * "0"
    choices = getattr(field_paths(method)[path].annotation, "__args__", ())
    for other in (*choices, *((value / 2, value * 2, value + 0.5, value + 1) if not choices else ())):
        try:
            if other != value:
                return flatten(from_mapping({"method": method, "epochs": 99, path: other}).model_dump())[path]
        except UserError:
            continue
    raise AssertionError(path)


@pytest.mark.parametrize("purify", [0, 1])
@pytest.mark.parametrize("method", list(METHODS))
def test_fields_that_cannot_act_change_nothing(method: str, purify: int, small_store: Store) -> None:
    given = SMALL | {"warmup.epochs": 1} | fields(method) | {"method": method, "epochs": 3}
    if "loss.align_weight" in field_paths(method):
        given["loss.align_weight"] = 0.0
    if purify and given["purify.epochs"]:
        given |= {"purify.epochs": 1, "mixture.posterior": "constant"}
    else:
        given["purify.epochs"] = 0
    config = from_mapping(given)
    flat, known = flatten(config.model_dump()), field_paths(method)
    searchable = [p for p in flat if not p.startswith(("prepare.", "compute.")) and known[p].json_schema_extra]
    inert = set(searchable) - set(acting(flat, config))
    assert inert
    changed = from_mapping(given | {path: other_value(path, flat[path], method) for path in inert})
    one, other = (Trainer(each, small_store) for each in (config, changed))
    for _ in range(config.epochs):
        rows = [each.train_epoch() for each in (one, other)]
        losses = [[row[name] for name in ("train_loss", "val_loss")] for row in rows]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
