from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from stores import SMALL

from raygap.data.store import Store
from raygap.methods import METHODS
from raygap.models.network import make_network
from raygap.schema import from_mapping
from raygap.search.cost import cost_of, seconds_an_epoch, time_needed
from raygap.search.gpus import GPU_MEMORY, in_words, settled, trials_a_gpu
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
    first, then, second, third = cost_of(made).lines(made, 2)
    assert then == "then 36 epochs of 3 test seeds, and 108 of 3 references (--no-references)"
    assert first.startswith("at most 144 epochs of trials, ")
    assert "shared warm-up that is trained once" in first
    assert "MB" in second or "kB" in second
    assert third.endswith("within --trunk-gb 1")


def test_a_run_without_a_gpu_says_how_long_it_takes_and_what_would_be_shorter(
    small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needed(epochs: int, **fields: object) -> list[str]:
        return time_needed(from_mapping(SMALL | fields), small_store, epochs, at_once=2)

    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [{"CPU": 2.0, "GPU": 1.0}])
    assert needed(10**9) == []
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [{"CPU": 2.0}])
    (short,) = needed(1)
    assert short.startswith("without a GPU about ")
    assert "shorter" not in short
    (long,) = needed(10**9)
    assert "shorter: fewer --epochs (now 6), trials or seeds" in long
    # Whatever a method does to the network, and with one clip a batch; the seed's draws are left alone.
    state = torch.random.get_rng_state()
    for method in METHODS:
        assert seconds_an_epoch(from_mapping({**SMALL, "method": method, "optimizer.batch_size": 1}), small_store) > 0
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("taken", "several", "share"), [(0.14, 6, 0.166), (0.29, 3, 0.333), (0.6, 1, 1.0), (0.001, 90, 0.011)]
)
def test_trials_share_a_gpu_as_the_first_one_s_memory_lets_them(taken: float, several: int, share: float) -> None:
    study = optuna.create_study()
    asked = plan(gpus_per_worker="auto")
    assert settled(asked, study) == asked
    study.set_user_attr(GPU_MEMORY, 0.0)  # of a trial that failed before it told
    assert settled(asked, study) == asked
    study.set_user_attr(GPU_MEMORY, taken)
    assert trials_a_gpu(taken) == several
    assert settled(asked, study).gpus_per_worker == share
    assert settled(plan(gpus_per_worker=0.5), study).gpus_per_worker == 0.5
    assert in_words(taken).startswith("the first trial took ")
