from dataclasses import replace
from pathlib import Path

from raygap.models.network import make_network
from raygap.schema import from_mapping
from raygap.search.cost import cost_of
from raygap.search.plan import Plan, make_plan

SPACE = {"warmup.epochs": {"choice": [4]}, "loss.focus": {"uniform": [0, 5]}}


def plan(**changes: object) -> Plan:
    fixed = {"method": "gmm_adaptive", "epochs": 10}
    return Plan(**{"dataset": "demo", "root": None, "trials": 6, "fixed": fixed, "space": SPACE, "cache": ""} | changes)


def test_warmups_that_are_shared_are_counted_once_a_rung_of_what_shapes_them() -> None:
    cost = cost_of(plan())
    assert (cost.epochs, cost.shared, cost.kept) == (60, 20, 4)
    rungs = SPACE | {"optimizer.lr": {"choice": [0.01, 0.02]}}
    assert (cost_of(plan(space=rungs)).shared, cost_of(plan(space=rungs)).kept) == (16, 8)
    assert cost_of(plan(trunk_gb=0.0)).shared == 0
    assert cost_of(plan(space=SPACE | {"optimizer.lr": {"uniform": [0.01, 1]}})).shared == 0


def test_memory_is_that_of_the_weights_and_what_the_optimiser_keeps_of_them() -> None:
    config = from_mapping({"method": "gmm_adaptive"})
    numbers = sum(weight.numel() for weight in make_network(config.model, 10, 0).parameters())
    sgd, adamw = cost_of(plan()), cost_of(plan(fixed=plan().fixed | {"optimizer.name": "adamw"}))
    assert (sgd.weights, sgd.checkpoint) == (12 * numbers, 8 * numbers)
    assert (adamw.weights, adamw.checkpoint) == (16 * numbers, 12 * numbers)


def test_shipped_plans_tell_their_cost_in_words(tmp_path: Path) -> None:
    made = replace(make_plan("demo", None, None, {}, root=None, cache=str(tmp_path)), trunk_gb=1.0)
    first, second, third = cost_of(made).lines(made, 2)
    assert first.startswith("at most 144 epochs of trials, ")
    assert "shared warm-up that is trained once" in first
    assert "MB" in second or "kB" in second
    assert third.endswith("within --trunk-gb 1")
