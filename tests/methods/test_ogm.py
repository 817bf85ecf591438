import math
from contextlib import nullcontext

import pytest
import torch
from steps import configured, gradients, method_and_network, step
from torch.nn.functional import cross_entropy


def one_step(name: str, epoch: int = 0, number: int = 0, **fields: float) -> tuple:
    """Gradients that a step leaves, those of CE(fused) alone, and the unimodal logits and labels of the batch."""
    method, network = method_and_network(name, **fields)
    batch = step(epoch=epoch, number=number)
    plain = network(batch.audio, batch.visual)
    cross_entropy(plain.fused, batch.labels).backward()
    expected = gradients(network)
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    metrics: dict[str, float] = {}
    method.end_epoch(epoch, metrics)
    return gradients(network), expected, plain, batch.labels, metrics


@pytest.mark.parametrize("alpha", [0.1, 0.8])
@pytest.mark.parametrize("readout", ["split", "heads"])
def test_ogm_against_equations_8_to_10(alpha: float, readout: str) -> None:
    got, expected, plain, labels, metrics = one_step("ogm", ogm__alpha=alpha, model__readout=readout)
    s = {
        m: sum(float(getattr(plain, m)[i].detach().softmax(0)[y]) for i, y in enumerate(labels))
        for m in ("audio", "visual")
    }
    k = {}
    for m, other in (("audio", "visual"), ("visual", "audio")):
        rho = s[m] / s[other]
        k[m] = 1 - math.tanh(alpha * rho) if rho > 1 else 1.0
        assert metrics[f"ogm_kept_{m}"] == pytest.approx(k[m], abs=1e-5)
    assert min(k.values()) < 1 == max(k.values())
    for name, gradient in expected.items():
        modality = name.split("_")[0]
        factor = k[modality] if modality in k and gradient.ndim == 4 else 1.0
        torch.testing.assert_close(got[name], factor * gradient, rtol=1e-4, atol=1e-7)


def test_generalisation_enhancement_adds_noise_of_the_gradients_own_deviation() -> None:
    plain, expected, *_ = one_step("ogm")
    noisy, *_ = one_step("ogm_ge")
    again, *_ = one_step("ogm_ge")
    other, *_ = one_step("ogm_ge", number=1)
    for name, gradient in plain.items():
        convolution = gradient.ndim == 4 and "encoder" in name
        assert torch.equal(noisy[name], again[name])
        assert torch.equal(noisy[name], gradient) is not convolution
        if convolution and gradient.numel() > 500:
            noise = (noisy[name] - gradient) / expected[name].std()
            assert float(noise.mean()) == pytest.approx(0, abs=0.15)
            assert float(noise.std()) == pytest.approx(1, abs=0.1)
            assert not torch.equal(noisy[name], other[name])


def test_modulation_ends() -> None:
    got, expected, *_ = one_step("ogm_ge", epoch=3, ogm__epochs=3)
    assert all(torch.equal(got[name], gradient) for name, gradient in expected.items())


def test_the_weights_of_encoders_without_convolutions_are_modulated_too() -> None:
    method, network = method_and_network("ogm")
    network.audio_encoder = torch.nn.Sequential(
        torch.nn.Flatten(2), torch.nn.TransformerEncoderLayer(256, 2, 8, dropout=0, batch_first=True),
        torch.nn.Flatten(), torch.nn.Linear(256, 16),
    )  # fmt: skip
    got, plain = [], []
    for alpha, found in ((0.8, got), (0.0, plain)):
        method.config = configured("ogm", ogm__alpha=alpha)
        method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), step(), nullcontext)
        found.append(gradients(network))
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    (got,), (plain,) = got, plain
    # Means over both steps, of which one keeps all; one of the two modalities is behind and keeps all in both.
    kept = {m: 2 * metrics[f"ogm_kept_{m}"] - 1 for m in ("audio", "visual")}
    assert min(kept.values()) < 1
    for name, gradient in plain.items():
        factor = kept[name.split("_")[0]] if "encoder" in name and gradient.ndim > 1 else 1.0
        torch.testing.assert_close(got[name], factor * gradient, rtol=1e-4, atol=1e-7)
