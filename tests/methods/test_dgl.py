from contextlib import nullcontext

import pytest
import torch
from steps import gradients, method_and_network, step
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_encoders_learn_from_unimodal_losses_alone_and_the_fusion_from_the_fused(fusion: str) -> None:
    readout = "split" if fusion in ("concat", "sum") else "heads"
    method, network = method_and_network("dgl", dgl__alpha=0.7, model__fusion=fusion, model__readout=readout)
    batch = step()
    plain = network(batch.audio, batch.visual)
    a, v = plain.audio_features, plain.visual_features
    losses = {
        "fusion": cross_entropy(plain.fused, batch.labels),
        "audio": 0.7 * cross_entropy(network.fusion(a, 0 * v), batch.labels),
        "visual": 0.7 * cross_entropy(network.fusion(0 * a, v), batch.labels),
    }
    expected = {}
    for part, loss in losses.items():
        for parameter in network.parameters():
            parameter.grad = None
        loss.backward(retain_graph=True)
        expected |= {name: g for name, g in gradients(network).items() if name.startswith(part)}
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    got = gradients(network)
    assert {name.split("_")[0].split(".")[0] for name in expected} == {"fusion", "audio", "visual"}
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped() -> None:
    method, network = method_and_network("dgl", dgl__alpha=100.0)
    with torch.no_grad():
        network.fusion.head.weight *= 1e3
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), step(), nullcontext)
    assert float(torch.stack([g.norm() for g in gradients(network).values()]).norm()) == pytest.approx(40, rel=1e-4)
