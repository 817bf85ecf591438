import math
from contextlib import nullcontext

import pytest
import torch
from steps import CLIPS, configured, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.mla import projected


@pytest.mark.parametrize("fusion", ["dynamic", "fixed"])
def test_the_surer_modality_weighs_more(fusion: str) -> None:
    method, network = method_and_network("mla", mla__fusion=fusion)
    batch = step()
    outputs = method.predict(network, batch.audio, batch.visual)
    head = network.fusion.head
    u = [head(z) for z in (outputs.audio_features, outputs.visual_features)]
    torch.testing.assert_close([outputs.audio, outputs.visual], u)
    for i in range(len(batch.labels)):
        p = [logits[i].detach().softmax(0).tolist() for logits in u]
        e = [-sum(x * math.log(x) for x in q) for q in p]
        w = [math.exp(max(e) - x) for x in e] if fusion == "dynamic" else [1.0, 1.0]
        torch.testing.assert_close(outputs.fused[i], (w[0] * u[0][i] + w[1] * u[1][i]) / sum(w))


def test_the_head_is_updated_by_either_modality_off_what_the_other_showed() -> None:
    method, network = method_and_network("mla", optimizer__batch_size=16)
    batch, lr = step(number=1), 0.1
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr)
    method.projection = projection = torch.randn(network.features, network.features)
    _, terms = method.train_step(network, optimizer, batch, nullcontext)
    got = {name: p.detach().clone() for name, p in network.named_parameters()}

    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(start[name])
    alpha = 0.1 ** (1 + 1 / math.ceil(CLIPS / 16))
    head = network.fusion.head
    outputs = network(batch.audio, batch.visual)
    for name, z in (("audio", outputs.audio_features), ("visual", outputs.visual_features)):
        network.zero_grad()
        loss = cross_entropy(head(z), batch.labels)
        loss.backward(retain_graph=True)
        torch.testing.assert_close(terms[name].detach(), loss.detach())
        with torch.no_grad():
            for parameter_name, p in network.named_parameters():
                if parameter_name.startswith(f"{name}_encoder") or parameter_name == "fusion.head.bias":
                    p -= lr * p.grad
            head.weight -= lr * head.weight.grad @ projection
            projection = projected(projection, z.mean(0), alpha)
    for name, p in network.named_parameters():
        torch.testing.assert_close(got[name], p.detach(), rtol=1e-3, atol=1e-5)


def test_the_projection_is_the_papers_recursion_and_forgets_no_direction() -> None:
    draw = torch.Generator().manual_seed(0)
    half = torch.randn(6, 6, generator=draw)
    projection, z = half @ half.T, torch.randn(6, generator=draw)  # P stays symmetric from 1 on
    q = projection @ z / (0.3 + z @ projection @ z)
    expected = projection - torch.outer(q, z) @ projection
    torch.testing.assert_close(projected(projection, z, 0.3), expected / expected.norm())
    tight = projected(torch.eye(6), z, 1e-6)
    torch.testing.assert_close(tight @ z, torch.zeros(6), atol=1e-4, rtol=0)
    for _ in range(500):
        tight = projected(tight, torch.randn(6, generator=draw), 0.1)
    assert float(tight.norm()) == pytest.approx(1)


def test_separate_heads_are_refused() -> None:
    config = configured("mla", model__readout="heads")
    with pytest.raises(UserError, match="mla has one shared head"):
        find_method("mla").check(config)
