import copy
import math
from contextlib import nullcontext

import pytest
import torch
from steps import gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.agm import shapley


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_responses_are_shapley_values_and_add_up(fusion: str) -> None:
    readout = "split" if fusion in ("concat", "sum") else "heads"
    _, network = method_and_network("agm", model__fusion=fusion, model__readout=readout)
    batch = step()
    outputs = network(batch.audio, batch.visual)
    a, v = outputs.audio_features, outputs.visual_features
    f = {(i, j): network.fusion(i * a, j * v) for i in (0, 1) for j in (0, 1)}
    expected = [
        ((f[1, 1] - f[0, 1]) + (f[1, 0] - f[0, 0])) / 2 + f[0, 0] / 2,
        ((f[1, 1] - f[1, 0]) + (f[0, 1] - f[0, 0])) / 2 + f[0, 0] / 2,
    ]
    got = shapley(network, a, v)
    for response, value in zip(got, expected, strict=True):
        torch.testing.assert_close(response, value)
    torch.testing.assert_close(sum(got), outputs.fused)
    if fusion == "concat":
        torch.testing.assert_close(got[0], outputs.audio)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_modulation_over_several_steps_against_the_papers_equations(fusion: str) -> None:
    method, network = method_and_network("agm", agm__alpha=0.6, agm__clip_norm=1e6, model__fusion=fusion)
    mean = {"audio": 0.0, "visual": 0.0}
    for t in range(1, 5):
        batch = step(seed=t, number=t)
        plain = network(batch.audio, batch.visual)
        network.zero_grad()
        cross_entropy(plain.fused, batch.labels).backward()
        expected = gradients(network)
        phi = dict(zip(mean, shapley(network, plain.audio_features, plain.visual_features), strict=True))
        s = {m: float(cross_entropy(phi[m], batch.labels)) for m in mean}
        kappa = {}
        for m, other in (("audio", "visual"), ("visual", "audio")):
            r, tau = math.exp(s[other] - s[m]), math.exp(mean[other] - mean[m])
            kappa[m] = math.exp(0.6 * (tau - r))
        mean = {m: mean[m] * (t - 1) / t + s[m] / t for m in mean}
        method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
        for name, gradient in gradients(network).items():
            factor = torch.tensor(next((kappa[m] for m in kappa if m in name), 1.0))
            if name == "fusion.head.weight":
                factor = torch.tensor([kappa[m] for m in ("audio", "visual") for _ in range(network.features)])
            torch.testing.assert_close(gradient, factor * expected[name], rtol=1e-3, atol=1e-6)
        assert (kappa["audio"] - 1) * (kappa["visual"] - 1) < 0
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    assert set(metrics) == {"agm_factor_audio", "agm_factor_visual"}


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_gradients_are_clipped_where_the_fusions_are_large(clip: float) -> None:
    method, network = method_and_network("agm", agm__clip_norm=clip)
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), step(), nullcontext)
    norm = float(torch.stack([gradient.norm() for gradient in gradients(network).values()]).norm())
    assert norm == pytest.approx(clip, rel=1e-4) if clip < 1 else norm < clip


def test_a_modality_far_behind_keeps_the_factors_finite() -> None:
    method, network = method_and_network("agm", agm__alpha=1.0)
    with torch.no_grad():
        network.fusion.head.weight[:, network.features :] *= 1e4
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), step(), nullcontext)
    assert all(gradient.isfinite().all() for gradient in gradients(network).values())


def test_responses_are_taken_in_evaluation_mode() -> None:
    method, network = method_and_network("agm", model__norm="batch", agm__alpha=1.0)
    batch = step()
    plain = copy.deepcopy(network).eval()(batch.audio, batch.visual)
    s = [float(cross_entropy(logits.detach(), batch.labels)) for logits in (plain.audio, plain.visual)]
    # The copy's statistics are those before the step, which moves them a little before the responses are taken.
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    modes = [True, *([index % 2 == 0 for index, _ in enumerate(network.modules())][1:])]
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    assert metrics["agm_factor_audio"] == pytest.approx(math.exp(1 - math.exp(s[1] - s[0])), rel=1e-4)
    assert [module.training for module in network.modules()] == modes
