"""What holds for every listed method: it trains, resumes, shares warm-ups rightly, and its own space suits it."""

from typing import Any

import pytest
from stores import SMALL

from raygap.config import flatten
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.schema import from_mapping
from raygap.search.plan import make_plan
from raygap.search.space import load_space
from raygap.testing import check_method
from raygap.training.checkpoint import dumps, loads
from raygap.training.trainer import Trainer
from raygap.training.trunk import warmup_key

OWN: dict[str, dict[str, Any]] = {
    "gradient_blending": {"gradient_blending.super_epoch": 1},
    "relearning": {"relearning.every": 1, "relearning.times": 2},
    "reconboost": {"reconboost.boost_epochs": 1, "reconboost.rectify_epochs": 1},
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
