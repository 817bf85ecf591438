"""Encoders that differ by modality, in kind, size, learning rate and in what of them is trained."""

from itertools import product
from pathlib import Path

import pytest
import torch

from raygap.config import TORCHVISION, VIDEO, WAVEFORM, Model
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.models.encoders import MEDIA, check_shape, make_encoder
from raygap.models.fusion import FUSIONS
from raygap.models.network import make_network
from raygap.schema import from_mapping, to_mapping
from raygap.testing import SMALL, check_method
from raygap.training.check import WAVEFORM_RATE, check_trial
from raygap.training.trainer import Trainer


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet_y_400mf", "convnext_tiny", "swin_t", "r3d_18"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_networks_of_torchvision_are_encoders(name: str, norm: str) -> None:
    for modality, channels in MEDIA.items():
        if name in VIDEO and modality == "audio":
            continue
        encoder = make_encoder(Model(encoder=name, norm=norm), modality, channels)
        check_shape(name, encoder, torch.zeros(2, 4, 3, 32, 32) if name in VIDEO else torch.zeros(2, channels, 32, 40))
        norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d)]
        assert not norms or norm == "batch"


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_pooled_sees_a_coarse_grid(norm: str) -> None:
    """As linear in its cells as a logistic regression, and no cell that hardly changes is blown up."""
    torch.manual_seed(0)
    sound, picture = torch.randn(16, 1, 64, 40), torch.randn(16, 3, 24, 24)
    for modality, batch in (("audio", sound), ("visual", picture)):
        encoder = make_encoder(Model(encoder="pooled", width=8, norm=norm), modality, batch.shape[1])
        assert encoder(batch).shape == (16, encoder.out_features) == (16, 32)
        encoder.eval()
        assert torch.allclose(encoder(batch), encoder(batch.repeat_interleave(2, 2)), atol=1e-5)
        if norm == "batch":
            middle = encoder((batch[:1] + batch[1:2]) / 2)
            assert torch.allclose(middle, (encoder(batch[:1]) + encoder(batch[1:2])) / 2, atol=1e-5)
    still = make_encoder(Model(encoder="pooled", norm=norm), "audio", 1)
    still(1e-3 * sound)
    assert still.eval()(sound).abs().max() < 100


class Hears(torch.nn.Module):
    """In place of a network for waveforms: the mean and deviation of each clip, as a single step."""

    def forward(self, sound: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.stack((sound.mean(1), sound.std(1, correction=0)), 1)[:, None], None


def test_networks_for_waveforms_are_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encoder = make_encoder(Model(encoder="wav2vec2_base"), "audio", 1)
    check_shape("wav2vec2_base", encoder, torch.zeros(2, 1, 1, 4000))
    assert encoder.net.encoder.transformer.layer_drop == 0
    sound = torch.randn(2, 1, 1, 400) * torch.tensor([0.1, 3.0]).view(2, 1, 1, 1) + 0.5
    encoder.net = Hears()
    heard = [encoder(sound) for encoder.normalised in (False, True)]
    torch.testing.assert_close(heard[0], torch.stack((sound.mean((1, 2, 3)), sound.std((1, 2, 3), correction=0)), 1))
    torch.testing.assert_close(heard[1], torch.tensor([[0.0, 1.0]] * 2), atol=1e-2, rtol=0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(UserError, match=r"base_ls960.pth cannot be fetched .no network.; put wav2vec2_fairseq_base"):
        make_encoder(Model(encoder="wav2vec2_base", audio={"weights": "DEFAULT"}), "audio", 1)


def test_networks_for_waveforms_are_those_of_torchaudios_bundles() -> None:
    """Whose private names alone say how they are made: a release that makes them otherwise is noticed here."""
    import torchaudio

    from raygap.models.waveform import BUNDLES, Waveform

    assert tuple(BUNDLES) == WAVEFORM
    for name, ours in BUNDLES.items():
        theirs = getattr(torchaudio.pipelines, name.upper())
        assert (ours.file, ours.normalised) == (theirs._path, theirs._normalize_waveform)
        assert theirs.sample_rate == WAVEFORM_RATE
        make = {"Wav2Vec2": torchaudio.models.wav2vec2_model, "WavLM": torchaudio.models.wavlm_model}
        with torch.device("meta"):
            networks = Waveform(name).net, make[theirs._model_type](**theirs._params)
        shapes = [{tensor: values.shape for tensor, values in one.state_dict().items()} for one in networks]
        assert shapes[0] == shapes[1]
        assert len({one.encoder.transformer.layer_norm_first for one in networks}) == 1


def unreachable(*arguments: object, **options: object) -> None:
    raise OSError("no network")


def test_names_of_torchvision_are_its_own() -> None:
    from torchvision import models

    assert {*TORCHVISION, *VIDEO} <= set(models.list_models())


def test_networks_of_timm_are_encoders() -> None:
    pytest.importorskip("timm")
    encoder = make_encoder(Model(encoder="timm:resnet10t"), "audio", 1)
    check_shape("timm:resnet10t", encoder, torch.zeros(2, 1, 32, 40))
    with pytest.raises(UserError, match="timm has no such network"):
        make_encoder(Model(encoder="timm:resnet10x"), "audio", 1)


@pytest.mark.parametrize(("fusion", "readout"), list(product(FUSIONS, ["split", "heads"])))
def test_every_fusion_and_readout_takes_features_of_two_lengths(fusion: str, readout: str) -> None:
    if readout == "split" and fusion in ("film", "gated"):
        return
    model = Model(fusion=fusion, readout=readout, width=4, audio={"width": 5}, visual={"encoder": "resnet18"})
    network = make_network(model, 5, 0).eval()
    out = network(torch.randn(4, 1, 20, 24), torch.randn(4, 2, 3, 16, 16))
    assert out.fused.shape == out.audio.shape == out.visual.shape == (4, 5)
    assert (out.audio_features.shape[1], out.visual_features.shape[1]) == (20, 512)
    if readout == "split":
        torch.testing.assert_close(out.audio + out.visual, out.fused)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_takes_unlike_encoders_of_which_parts_are_frozen_or_says_no(
    method: str, small_store: Store
) -> None:
    fields = SMALL | {"method": method, "epochs": 3, "warmup.epochs": 1, "purify.epochs": 0, "model.audio.width": 8}
    fields |= {"model.visual.frozen_until": "layers.4", "model.audio.frozen_epochs": 2, "model.audio.lr_factor": 0.5}
    fields |= {"model.fusion": "sum"} if method == "reconboost" else {}
    fields |= {"model.readout": "heads"} if method == "cggm" else {}
    try:
        find_method(method).check(from_mapping(fields))
    except UserError:
        fields["warmup.epochs"] = 0
    config = from_mapping(fields)
    if find_method(method).equal_features(config):
        for refuses in (lambda: check_trial(config), lambda: Trainer(config, small_store)):
            with pytest.raises(UserError, match="32 numbers for audio and 16 numbers for visual"):
                refuses()
        return
    check_trial(config)
    trainer = Trainer(config, small_store)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    assert [group.get("lr_factor") for group in trainer.stepper.optimizer.param_groups] == [None, 0.5]

    def moved() -> set[str]:
        now = trainer.network.state_dict()
        return {name.rsplit(".", 1)[0] for name in now if not torch.equal(now[name], before[name])}

    for _ in range(2):
        trainer.train_epoch()
    assert not {name for name in moved() if name.startswith(("audio_encoder", "visual_encoder.layers.0"))}
    trainer.train_epoch()
    if method != "visual_only":
        assert "audio_encoder.layers.0" in moved()
    assert not {name for name in moved() if name.startswith(("visual_encoder.layers.0", "visual_encoder.layers.2"))}


def test_a_training_with_frozen_parts_is_resumed_and_forked_to_the_last_bit(small_store: Store) -> None:
    fields = {"model.visual.frozen_epochs": 3, "model.audio.frozen_until": "layers.0", "model.audio.lr_factor": 0.3}
    check_method("unimodal_losses", fields, small_store)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.audio.lr_factor": 0}, "model.audio.lr_factor = 0: Input should be greater than 0"),
        ({"model.audio.encoder": "r3d_18"}, "model.audio.encoder: r3d_18 is for the frames of a clip"),
        ({"model.visual.encoder": "mlp"}, "model.visual.encoder mlp: is for features; with media choose another"),
        (
            {"prepare.input": "features", "model.encoder": "resnet18"},
            "is for media; with features choose one of linear",
        ),
        (
            {"model.encoder": "hubert_base"},
            "is for sound as it is; set prepare.spectrogram=waveform and",
        ),
        ({"prepare.spectrogram": "waveform"}, "prepare.spectrogram = waveform needs one of wav2vec2_base, "),
        (
            {"prepare.input": "features", "model.encoder": "timm:resnet10t"},
            "timm:resnet10t: is for media; with",
        ),
        ({"prepare.input": "features", "model.encoder": "no_such:make"}, "model.encoder no_such:make: no module"),
        ({"model.visual.frozen_until": "layer2"}, "frozen_until = layer2: no such stage with weights; the first"),
        (
            {"model.visual.encoder": "vit_b_16"},
            "model.encoder vit_b_16: fails on (2, 3, 32, 32) (AssertionError: Wrong",
        ),
        ({"model.visual.weights": "DEFAULT"}, "small_cnn has no pretrained weights"),
    ],
)
def test_encoders_that_do_not_fit_are_refused_in_one_line(fields: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_trial(from_mapping({"method": "joint"} | fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_set_of_one_modality_alone_is_written_down() -> None:
    assert not {"audio", "visual"} & to_mapping(from_mapping({}))["model"].keys()
    written = to_mapping(from_mapping({"model.audio.encoder": "resnet18"}))
    assert written["model"]["audio"]["encoder"] == "resnet18"
    assert "visual" not in written["model"]
    assert from_mapping(written).model.of("audio").encoder == "resnet18"


def test_another_file_of_weights_is_another_warmup(tmp_path: Path) -> None:
    from raygap.training import trunk

    keys = []
    for content in (b"one", b"other"):
        (tmp_path / "weights.pt").write_bytes(content)
        trunk._digest.cache_clear()
        config = from_mapping({"method": "joint", "model.audio.weights": str(tmp_path / "weights.pt")})
        keys.append(trunk.warmup_key(config, "store", find_method("joint")))
    trunk._digest.cache_clear()
    assert len(set(keys)) == 2
