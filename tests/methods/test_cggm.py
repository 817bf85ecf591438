from contextlib import nullcontext

import pytest
import torch
from steps import configured, gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.cggm import balance

FIELDS = {"model__readout": "heads", "cggm__rho": 1.2, "cggm__direction": 0.4, "cggm__clip_norm": 1e6}


def test_shares_worked_out_by_hand() -> None:
    assert balance(torch.tensor([0.3, 0.1])).tolist() == pytest.approx([0.25, 0.75])
    assert balance(torch.tensor([0.3, -0.1])).tolist() == pytest.approx([-0.5, 1.5])
    assert balance(torch.tensor([0.2, -0.2])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_steps_against_the_equations(fusion: str) -> None:
    method, network = method_and_network("cggm", model__fusion=fusion, **FIELDS)
    share, last, shares = torch.tensor([0.5, 0.5]), None, []
    for t in range(4):
        batch = step(seed=3 + t, number=t)
        plain = network(batch.audio, batch.visual, probe=True)
        read = (
            network.fusion.head.weight.chunk(2, 1)
            if fusion == "concat"
            else (network.fusion.audio.weight, network.fusion.visual.weight)
        )
        apart = 0.0
        for i, m in enumerate(("audio", "visual")):
            w, guide = read[i], network.heads[m].weight.detach()
            apart = apart + share[i].abs() - share[i] * (w * guide).sum() / (w.norm() * guide.norm())
        probes = [cross_entropy(logits, batch.labels) for logits in (plain.audio, plain.visual)]
        network.zero_grad()
        (cross_entropy(plain.fused, batch.labels) + sum(probes) + 0.4 * apart / 2).backward()
        expected = gradients(network)
        right = [(logits.argmax(1) == batch.labels).float().mean() for logits in (plain.audio, plain.visual)]
        now = torch.stack(right)
        share = torch.tensor([0.5, 0.5]) if last is None else balance(now - last)
        last = now
        method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
        factors = dict(zip(("audio", "visual"), (1.2 * share).tolist(), strict=True))
        for name, gradient in gradients(network).items():
            factor = factors[name.split("_")[0]] if "encoder" in name else 1.0
            torch.testing.assert_close(gradient, factor * expected[name], rtol=1e-3, atol=1e-5)
        shares.append(float(share[0]))
    assert len(set(shares)) > 1


def test_it_needs_classifiers_and_a_linear_fusion() -> None:
    with pytest.raises(UserError, match=r"cggm needs model\.readout=heads"):
        find_method("cggm").check(configured("cggm", model__readout="split"))
    with pytest.raises(UserError, match=r"not heads and film"):
        find_method("cggm").check(configured("cggm", model__readout="heads", model__fusion="film"))
