from contextlib import nullcontext
from typing import Any

import pytest
import torch
from steps import configured, gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method

FIELDS = {
    "model__fusion": "sum",
    "reconboost__boost_epochs": 2,
    "reconboost__rectify_epochs": 1,
    "reconboost__reconcile": 0.6,
    "reconboost__consolidate": 0.3,
}


def test_the_modalities_take_turns_and_are_set_right_together() -> None:
    method, _ = method_and_network("reconboost", **FIELDS | {"warmup__epochs": 3})
    turns = [method.turn(epoch) for epoch in range(3, 10)]
    assert [name for name, _ in turns] == ["audio", "audio", None, "visual", "visual", None, "audio"]
    assert [new for _, new in turns] == [True, False, True, True, False, True, True]


@pytest.mark.parametrize(("epoch", "modality", "other"), [(0, "audio", "visual"), (3, "visual", "audio")])
def test_boosting_against_its_equation_leaves_the_other_modality_alone(epoch: int, modality: str, other: str) -> None:
    method, network = method_and_network("reconboost", **FIELDS)
    batch = step(epoch=epoch)
    plain = network(batch.audio, batch.visual)
    p, q = getattr(plain, modality).softmax(1), getattr(plain, other).softmax(1).detach()
    own = torch.arange(12), batch.labels
    loss = (-(1 - 0.6 * q[own]) * p[own].log()).mean() + 0.3 * ((p - q) ** 2).sum(1).mean()
    loss.backward()
    expected = gradients(network)
    before = {name: value.clone() for name, value in network.named_parameters()}
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    torch.testing.assert_close(sum(terms.values()), loss)
    assert terms.keys() == {modality, "consolidation"}
    got = gradients(network)
    assert got.keys() == expected.keys()
    for name, value in network.named_parameters():
        if other in name:
            assert name not in got
            assert torch.equal(value, before[name])
        else:
            torch.testing.assert_close(got[name], expected[name])


def test_rectification_trains_both_on_their_sum_without_momentum_from_before() -> None:
    method, network = method_and_network("reconboost", **FIELDS)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for number in range(2):
        method.train_step(network, optimizer, step(seed=number, epoch=1, number=number), nullcontext)
    for number in range(2):
        batch = step(seed=5 + number, epoch=2, number=number)
        plain = network(batch.audio, batch.visual)
        torch.testing.assert_close(plain.fused, plain.audio + plain.visual)
        loss = cross_entropy(plain.fused, batch.labels)
        _, terms = method.train_step(network, optimizer, batch, nullcontext)
        assert terms.keys() == {"fusion"}
        torch.testing.assert_close(terms["fusion"], loss)
        fresh = [torch.equal(optimizer.state[p]["momentum_buffer"], p.grad) for p in network.parameters()]
        assert all(fresh) if number == 0 else not any(fresh)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model__fusion": "concat"}, r"set model\.fusion=sum"),
        ({"model__readout": "heads"}, r"model\.readout=split"),
        ({"purify__epochs": 1}, r"purify\.epochs=0"),
    ],
)
def test_what_does_not_suit_it_is_refused(fields: dict[str, Any], message: str) -> None:
    find_method("reconboost").check(configured("reconboost", **FIELDS))
    with pytest.raises(UserError, match=message):
        find_method("reconboost").check(configured("reconboost", **FIELDS | fields))
