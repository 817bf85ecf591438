import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torchaudio.models import wav2vec2_model
from torchvision.models import DenseNet, VisionTransformer, resnet18

from raygap.config import Model
from raygap.errors import UserError
from raygap.models.encoders import make_encoder
from raygap.models.library import IMAGENET, Expected, Rescale
from raygap.models.weights import fetch, load_weights
from raygap.schema import from_mapping
from raygap.training.check import check_trial


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state dict of a whole ResNet-18 as its authors publish it, with random weights."""
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18().state_dict(), file)
    return file


def made(modality: str, weights: Path | str, **fields: Any) -> torch.nn.Module:
    return make_encoder(
        Model(**fields, **{modality: {"weights": str(weights)}}), modality, 1 + 2 * (modality != "audio")
    )


def test_weights_of_a_file_are_loaded_and_what_differs_is_said(theirs: Path) -> None:
    state = torch.load(theirs, weights_only=True)
    sound, pictures = (made(modality, theirs, encoder="resnet18") for modality in ("audio", "visual"))
    torch.testing.assert_close(sound.net.conv1.weight, state["conv1.weight"].mean(1, keepdim=True))
    assert torch.equal(pictures.net.conv1.weight, state["conv1.weight"])
    assert torch.equal(sound.net.layer4[1].bn2.running_mean, state["layer4.1.bn2.running_mean"])
    assert sound.loaded == (
        f"model.audio.weights {theirs}: 100 tensors loaded, 1 of them by the mean of 3 channels; missing: none; "
        "not expected: fc.weight, fc.bias"
    )
    assert "mean of" not in pictures.loaded


def test_a_best_pt_gives_the_encoder_of_the_same_modality(tmp_path: Path) -> None:
    sound = make_encoder(Model(width=4), "audio", 1)
    state = {f"audio_encoder.{name}": value for name, value in sound.state_dict().items()}
    torch.save({"config": {}, "network": state | {"fusion.head.weight": torch.zeros(2)}}, tmp_path / "best.pt")
    again = made("audio", tmp_path / "best.pt", width=4)
    assert torch.equal(again.layers[0].weight, sound.layers[0].weight)
    with pytest.raises(UserError, match="another network: of 20 tensors 20 are missing"):
        made("visual", tmp_path / "best.pt", width=4)


def test_safetensors_are_read(tmp_path: Path) -> None:
    torch_files = pytest.importorskip("safetensors.torch")
    sound = make_encoder(Model(width=4), "audio", 1)
    torch_files.save_file(sound.state_dict(), tmp_path / "own.safetensors")
    assert torch.equal(made("audio", tmp_path / "own.safetensors", width=4).layers[0].weight, sound.layers[0].weight)


class Held(torch.nn.Module):
    """A network as raygap's encoders hold one."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net


@pytest.mark.parametrize(
    ("make", "earlier"),
    [
        (
            lambda: VisionTransformer(32, 16, 1, 2, 8, 8),
            [("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")],
        ),
        (
            lambda: DenseNet(4, (2,), 4),
            [(f"{kind}{number}.", f"{kind}.{number}.") for kind in ("norm", "conv") for number in "12"],
        ),
        (
            lambda: wav2vec2_model(
                "group_norm", [(8, 10, 5)], False, 16, 0.0, 4, 2, 1, 2, 0.0, 8, 0.0, 0.0, False, 0.0, None
            ),
            [(f"conv.parametrizations.weight.original{n}", f"conv.weight_{name}") for n, name in enumerate("gv")],
        ),
    ],
    ids=["vit", "densenet", "wav2vec2"],
)
def test_files_of_earlier_versions_name_tensors_otherwise(make: Any, earlier: list, tmp_path: Path) -> None:
    """As the published ones of torchvision and torchaudio do."""
    published, net = make().state_dict(), make()
    state = {}
    for name, values in published.items():
        for now, then in earlier:
            name = name.replace(now, then)
        state[name] = values
    assert state.keys() != published.keys()
    torch.save(state, tmp_path / "published.pth")
    said = load_weights(Held(net), "own", str(tmp_path / "published.pth"), "visual")
    tensors = [name for name in published if not name.endswith("num_batches_tracked")]
    assert f"{len(tensors)} tensors loaded; missing: none; not expected: none" in said
    assert all(torch.equal(values, published[name]) for name, values in net.state_dict().items())


class Harm:
    """What a pickle may bring along."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"pt: no such file"),
        ({"weight": Harm()}, "not a state dict that can be read without running code"),
        ({"lr": 0.1}, "no state dict"),
        ([1], "no state dict"),
        (lambda: make_encoder(Model(width=8), "audio", 1).state_dict(), "layers.0.weight is (8, 1, 3, 3) there, and "),
        (lambda: {"a.b": torch.zeros(1)}, "weights of another network: of 20 tensors 20 are missing, such as layers.0"),
    ],
)
def test_what_are_no_weights_of_the_network_is_refused(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        torch.save(content() if callable(content) else content, "weights.pt")
    with pytest.raises(UserError) as error:
        made("audio", "./weights.pt", width=4)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("harm").exists()


def test_what_cannot_be_fetched_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    with pytest.raises(UserError, match=f"cannot be fetched .*; put net-00112233.pth into {folder}"):
        fetch((tmp_path / "net-00112233.pth").as_uri(), "net-00112233.pth", "weights")
    (tmp_path / "net-00112233.pth").write_bytes(b"not what the name promises")
    with pytest.raises(UserError, match=r"cannot be fetched .*hash"):
        fetch((tmp_path / "net-00112233.pth").as_uri(), "net-00112233.pth", "weights")
    net = make_encoder(Model(width=4), "audio", 1)
    for place in ("one", "other"):  # whose files have the same name
        (tmp_path / place).mkdir()
        torch.nn.init.constant_(net.layers[0].weight, len(place))
        torch.save(net.state_dict(), tmp_path / place / "net.pth")
    for place in ("one", "other", "one"):
        found = made("audio", (tmp_path / place / "net.pth").as_uri(), width=4)
        assert (found.layers[0].weight == len(place)).all()
    assert len(list(folder.glob("????????-net.pth"))) == 2
    (tmp_path / "one" / "net.pth").unlink()
    made("audio", (tmp_path / "one" / "net.pth").as_uri(), width=4)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"cut off")
    with pytest.raises(UserError, match="not the file of that name"):
        made("visual", "DEFAULT", encoder="resnet18")


def test_pretrained_weights_ask_for_pictures_like_those_of_their_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr("raygap.models.weights.sha256", lambda path: "f37072fd")  # nothing is fetched in tests
    torch.save(resnet18().state_dict(), folder / "resnet18-f37072fd.pth")
    fields = {"method": "joint", "model.visual.encoder": "resnet18", "model.visual.weights": "DEFAULT"}
    with pytest.raises(UserError) as error:
        check_trial(from_mapping(fields))
    assert str(error.value) == (
        "model.visual.weights DEFAULT: those of resnet18 are for pictures of 224 pixels in the scale of their "
        "training; set prepare.frame_size=224 and prepare.frame_scaling=imagenet"
    )
    check_trial(from_mapping(fields | {"prepare.frame_size": 224, "prepare.frame_scaling": "imagenet"}))
    with pytest.raises(UserError, match=r"has IMAGENET1K_V1, DEFAULT, or a file"):
        check_trial(from_mapping(fields | {"model.visual.weights": "IMAGENET21K"}))
    with pytest.raises(UserError, match=r"model.norm = group: the weights DEFAULT need batch normalisation"):
        check_trial(from_mapping(fields | {"model.norm": "group"}))


def test_a_vit_is_made_for_the_pictures_of_its_weights() -> None:
    model = Model(encoder="vit_b_16", visual={"weights": "IMAGENET1K_SWAG_E2E_V1"})
    with torch.device("meta"):
        encoder = make_encoder(model, "visual", 3, weights=False)
    assert encoder.expects.size == encoder.net.image_size == 384


def test_pictures_are_brought_to_the_scale_of_the_weights() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    imagenet, other = (
        (torch.tensor(values).view(3, 1, 1) for values in scale) for scale in (IMAGENET, [[0.5] * 3] * 2)
    )
    scaled = [(pixels - mean) / deviation for mean, deviation in (imagenet, other)]
    torch.testing.assert_close(Rescale(Expected(8, (0.5,) * 3, (0.5,) * 3))(scaled[0]), scaled[1])
    assert Rescale(Expected(8, *IMAGENET))(pixels) is pixels
