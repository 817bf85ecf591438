from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from steps import gradients, method_and_network, step
from torch.nn.functional import cross_entropy


@pytest.mark.parametrize("conflict", [False, True])
@pytest.mark.parametrize("readout", ["split", "heads"])
def test_mmpareto_against_its_algorithm(conflict: bool, readout: str) -> None:
    method, network = method_and_network("mmpareto", mmpareto__gamma=1.3, model__readout=readout)
    batch = step()
    with torch.no_grad():
        if readout == "heads":  # a head that answers the other way round pulls the other way
            weights = network.fusion.head.weight.chunk(2, 1)
            for head, weight in zip(network.heads.values(), weights, strict=True):
                head.weight.copy_(-weight if conflict else weight)
        elif conflict:  # so does a modality that the other has to shout down
            network.fusion.head.weight[:, : network.features] *= -30
    terms = {}
    for name in ("fused", "audio", "visual"):
        network.zero_grad()
        cross_entropy(getattr(network(batch.audio, batch.visual), name), batch.labels).backward()
        terms[name] = gradients(network)
    network.zero_grad()
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)

    met = 0
    for modality in ("audio", "visual"):
        names = [name for name in terms["fused"] if name.startswith(f"{modality}_encoder")]
        g_f = {name: terms["fused"][name].double().numpy() for name in names}
        g_u = {name: terms[modality][name].double().numpy() for name in names}
        f, u = (np.concatenate([g[name].ravel() for name in names]) for g in (g_f, g_u))
        w = 0.5
        if f @ u <= 0:
            met += 1
            norm = lambda w: np.linalg.norm(w * f + (1 - w) * u)  # noqa: B023, E731
            w = minimize_scalar(norm, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
        for name in names:
            h = 2 * w * g_f[name] + 2 * (1 - w) * g_u[name]
            expected = 1.3 * max(1.0, np.linalg.norm(g_f[name] + g_u[name]) / np.linalg.norm(h)) * h
            got = network.get_parameter(name).grad.double().numpy()
            np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert (met > 0) is conflict
    for name, parameter in network.named_parameters():
        if "encoder" not in name:
            torch.testing.assert_close(parameter.grad, sum(t[name] for t in terms.values() if name in t))


def test_conflicts_are_counted() -> None:
    method, network = method_and_network("mmpareto")
    metrics: dict[str, float] = {}
    for number in range(4):
        method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), step(number=number), nullcontext)
    method.end_epoch(0, metrics)
    assert set(metrics) == {"mmpareto_conflicts_audio", "mmpareto_conflicts_visual"}
    assert all(value in (0, 0.25, 0.5, 0.75, 1) for value in metrics.values())


def test_a_unimodal_loss_without_gradient_leaves_the_fused_one_as_it_is() -> None:
    method, network = method_and_network("mmpareto", mmpareto__gamma=1.0, loss__unimodal_weight=0.0)
    batch = step()
    cross_entropy(network(batch.audio, batch.visual).fused, batch.labels).backward()
    fused = gradients(network)
    network.zero_grad()
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    for name, parameter in network.named_parameters():
        if "encoder" in name:
            torch.testing.assert_close(parameter.grad, fused[name])
