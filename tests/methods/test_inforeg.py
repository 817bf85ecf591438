import math
from contextlib import nullcontext

import pytest
import torch
from steps import gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.inforeg import growth


def test_growth_is_of_the_mean_of_the_last_ten_traces() -> None:
    assert growth([]) == 1.0
    assert growth([3.0]) == 1.0  # nothing before it
    assert growth([3.0, 1.0]) == pytest.approx(1 / 4)
    traces = [float(i) for i in range(12, 0, -1)]
    assert growth(traces) == pytest.approx((sum(traces[2:]) - sum(traces[1:11])) / sum(traces[2:]))
    assert growth(traces) < 0


@pytest.mark.parametrize("ahead", ["audio", "visual"])
def test_the_encoder_ahead_is_held_near_its_weights_at_the_start_of_the_epoch(ahead: str) -> None:
    fields = {"inforeg__strength_audio": 0.7, "inforeg__strength_visual": 0.3, "optimizer__batch_size": 12}
    method, network = method_and_network("inforeg", **fields)
    batch = step()
    with torch.no_grad():
        half = network.fusion.head.weight.chunk(2, 1)[ahead == "audio"]
        half.zero_()  # of the other, which then knows nothing
        own = network.fusion.head.weight.chunk(2, 1)[ahead == "visual"]
        features = getattr(network(batch.audio, batch.visual), f"{ahead}_features")
        wanted = torch.nn.functional.one_hot(batch.labels, 3).float()
        own.copy_(torch.linalg.lstsq(features, wanted).solution.T)
    method.begin_epoch(0, network, None)
    anchors = {name: value.clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01
    plain = network(batch.audio, batch.visual)
    unimodal = [cross_entropy(logits, batch.labels) for logits in (plain.audio, plain.visual)]
    (cross_entropy(plain.fused, batch.labels) + sum(unimodal)).backward()
    expected = gradients(network)
    s = {m: float(getattr(plain, m).detach().softmax(1)[range(12), batch.labels].sum()) for m in ("audio", "visual")}
    other = {"audio": "visual", "visual": "audio"}[ahead]
    assert s[ahead] > s[other]
    held = {"audio": 0.7, "visual": 0.3}[ahead] * math.exp(math.tanh(s[ahead] - s[other]))
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    trace = 0.0
    for name, gradient in gradients(network).items():
        beta = held if name.startswith(ahead) else 0.0
        moved = dict(network.named_parameters())[name].detach() - anchors[name]
        torch.testing.assert_close(gradient, expected[name] + beta * moved, rtol=1e-4, atol=1e-5)
        if name.startswith("audio") and gradient.ndim == 4:
            trace += float(gradient.square().mean())
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    assert metrics["inforeg_trace_audio"] == pytest.approx(trace, rel=1e-4)
    assert metrics[f"inforeg_held_{other}"] == 0


def test_nothing_is_held_after_the_prime_learning_window() -> None:
    method, network = method_and_network("inforeg")
    method.traces = [[5.0 - 0.4 * i] * 2 for i in range(12)]
    method.begin_epoch(12, network, None)
    assert method.learning == [False, False]
