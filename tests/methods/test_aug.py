from contextlib import nullcontext

import pytest
import torch
from steps import configured, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.aug import boosted


def test_loss_against_its_equation() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 7, 4, generator=draw), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    total = 0.0
    for i, y in enumerate(labels):
        o, n = logits[0, i] + logits[1, i], logits[2, i]
        ce = [-float(x.log_softmax(0)[y]) for x in (o + n, o, n)]
        total += ce[0] + ce[1] + (1 - 0.3 * float(o.softmax(0)[y])) * ce[2]
    assert float(boosted(logits, labels, 0.3)) == pytest.approx(total / 7, rel=1e-5)
    assert float(boosted(logits[:1], labels, 0.3)) == pytest.approx(float(cross_entropy(logits[0], labels)), rel=1e-5)


def test_the_modality_behind_gets_classifiers_which_learn_and_are_kept() -> None:
    method, network = method_and_network("aug", epochs=40)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    start = {name: value.clone() for name, value in network.named_parameters()}
    for epoch in range(9):
        method.begin_epoch(epoch, network, None)
        method.sums += torch.tensor([30.0, 3.0])  # audio is far ahead
        batch = step(epoch=epoch)
        method.train_step(network, optimizer, batch, nullcontext)
    assert network.fusion.used == {"audio": 1, "visual": 4}  # after 1, 4 and 8 of 40 epochs
    moved = [
        not torch.equal(value, start[name]) for name, value in network.named_parameters() if "fusion.visual" in name
    ]
    assert moved == [True] * 2 * 4 + [False] * 2 * (len(network.fusion.visual) - 4)
    outputs = network(batch.audio, batch.visual)
    torch.testing.assert_close(outputs.fused, 0.4 * outputs.audio + 0.6 * outputs.visual)
    _, other = method_and_network("aug", epochs=40)
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(batch.audio, batch.visual).visual, outputs.visual)


def test_none_comes_where_both_are_as_good() -> None:
    method, network = method_and_network("aug", epochs=40)
    method.begin_epoch(0, network, None)
    method.sums = torch.tensor([1.0, 1.005])
    method.begin_epoch(1, network, None)
    assert network.fusion.used == {"audio": 1, "visual": 1}


def test_separate_heads_are_refused() -> None:
    with pytest.raises(UserError, match=r"set model\.readout=split"):
        find_method("aug").check(configured("aug", model__readout="heads"))
