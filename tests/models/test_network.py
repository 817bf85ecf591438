import pytest
import torch

from raygap.config import Model
from raygap.models.fusion import FUSIONS
from raygap.models.network import make_network

AUDIO, VISUAL = torch.randn(4, 1, 20, 24), torch.randn(4, 2, 3, 16, 16)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_split_readout_adds_up_to_the_fused_logits(fusion: str) -> None:
    network = make_network(Model(fusion=fusion), classes=5, seed=0).eval()
    for parameter in network.fusion.parameters():  # also with a bias that is not zero
        torch.nn.init.normal_(parameter)
    out = network(AUDIO, VISUAL)
    torch.testing.assert_close(out.audio + out.visual, out.fused)


@pytest.mark.parametrize("encoder", ["small_cnn", "resnet18"])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_every_encoder_and_fusion_gives_logits_and_gradients(encoder: str, fusion: str) -> None:
    network = make_network(Model(encoder=encoder, fusion=fusion, readout="heads", width=4), classes=5, seed=0)
    out = network(AUDIO, VISUAL)
    assert out.fused.shape == out.audio.shape == out.visual.shape == (4, 5)
    (out.fused.sum() + out.audio.sum() + out.visual.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_each_modality_reaches_the_fused_logits(fusion: str) -> None:
    network = make_network(Model(fusion=fusion, readout="heads"), classes=5, seed=0).eval()
    fused = network(AUDIO, VISUAL).fused
    assert not torch.allclose(fused, network(AUDIO + 1, VISUAL).fused)
    assert not torch.allclose(fused, network(AUDIO, VISUAL + 1).fused)


def test_unimodal_logits_see_one_modality_only() -> None:
    for model in (Model(), Model(readout="heads", fusion="gated")):
        network = make_network(model, classes=5, seed=0).eval()
        before, after = network(AUDIO, VISUAL), network(AUDIO, VISUAL + 1)
        torch.testing.assert_close(before.audio, after.audio, rtol=0, atol=0)
        assert not torch.allclose(before.visual, after.visual)


def test_probe_keeps_the_heads_from_the_encoders() -> None:
    network = make_network(Model(readout="heads"), classes=5, seed=0)
    out = network(AUDIO, VISUAL, probe=True)
    (out.audio.sum() + out.visual.sum()).backward()
    assert all(p.grad is None for p in network.audio_encoder.parameters())
    assert network.heads["audio"].weight.grad is not None


def test_initial_weights_follow_from_the_seed_alone() -> None:
    first = make_network(Model(), 5, seed=3).state_dict()
    torch.rand(7)
    state = torch.get_rng_state()
    second = make_network(Model(), 5, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make_network(Model(), 5, seed=4).state_dict()
    assert not torch.equal(first["fusion.head.weight"], other["fusion.head.weight"])


@pytest.mark.parametrize("width", [4, 5, 20, 66])
def test_group_norm_fits_every_width(width: int) -> None:
    make_network(Model(norm="group", width=width), 5, seed=0)(AUDIO, VISUAL)


def test_group_norm_does_not_look_at_the_batch() -> None:
    network = make_network(Model(norm="group"), 5, seed=0).train()
    whole = network(AUDIO, VISUAL).fused
    parts = torch.cat([network(AUDIO[i : i + 1], VISUAL[i : i + 1]).fused for i in range(4)])
    torch.testing.assert_close(whole, parts)
