import math
from contextlib import nullcontext

import pytest
import torch
from steps import gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.arl import learning_shares


def test_shares_worked_out_by_hand() -> None:
    # Relied on 3 to 1; entropies 0.2 and 0.8 of their sum, the first of which counts as 0.3.
    shares = learning_shares(torch.tensor([6.0, 2.0]), torch.tensor([0.5, 2.0]), 8.0)
    h = (1 / 0.3) / (1 / 0.3 + 1 / 0.8)
    odds = math.exp(8 * 0.25 * h - 8 * 0.75 * (1 - h))
    assert shares.tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], rel=1e-5)
    assert learning_shares(torch.tensor([6.0, 2.0]), torch.tensor([0.5, 2.0]), 0.0).tolist() == [0.5, 0.5]


def test_a_step_against_its_equations() -> None:
    method, network = method_and_network("arl", arl__gamma=0.6, arl__temperature=5.0)
    batch = step()
    plain = network(batch.audio, batch.visual)
    u = (plain.audio.detach(), plain.visual.detach())
    reliance = torch.stack([logits.abs().mean(0).sum() for logits in u])
    entropy = torch.stack([-(x.softmax(1) * x.softmax(1).log()).sum(1).mean() for x in u])
    w = dict(zip(("audio", "visual"), learning_shares(reliance, entropy, 5.0).tolist(), strict=True))
    unimodal = sum(cross_entropy(logits, batch.labels) for logits in (plain.audio, plain.visual))
    (cross_entropy(plain.fused, batch.labels) + 0.6 * unimodal).backward()
    expected = gradients(network)
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    scaled = {n: g * (1 + w[n.split("_")[0]] if "encoder" in n else 1.0) for n, g in expected.items()}
    norm = float(torch.stack([g.norm() for g in scaled.values()]).norm())
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, min(40 / norm, 1) * scaled[name], rtol=1e-4, atol=1e-6)
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    assert metrics["arl_share_audio"] == pytest.approx(w["audio"], rel=1e-4)
