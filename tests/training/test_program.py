"""Exported programs answer as the classifier does, whatever the network, and say what they are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from stores import SMALL, write_store
from torch import Tensor, nn

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.imbalance.correction import TemperatureWeights
from raygap.methods import find_method
from raygap.schema import from_mapping
from raygap.training.checkpoint import export_tensors, load
from raygap.training.inference import Classifier
from raygap.training.program import ABOUT, write_program
from raygap.training.run import train
from raygap.training.trainer import trial_network

FIELDS = SMALL | {"epochs": 2, "warmup.epochs": 1, "purify.epochs": 0, "prepare.frames": 2}
CORRECTION = TemperatureWeights({"audio": 2.0, "visual": 0.7}, {"fused": 0.6, "audio": 0.0, "visual": 0.9})
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of the shapes that the configuration says."""
    return write_store(tmp_path_factory.mktemp("program") / "store", settings=from_mapping(FIELDS).prepare)


@pytest.fixture(scope="module")
def ensemble(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Two networks whose fusions are as different as they come, and a correction of their mean."""
    members = []
    for method in ("mla", "aug"):
        folder = tmp_path_factory.mktemp(method)
        list(train(from_mapping(FIELDS | {"method": method}), store, folder))
        members.append(Classifier.load(folder / "best.pt"))
    kept = CORRECTION.to_mapping() | {"gain": 0.1, "half_width": 0.05, "clips": 12, "helps": True}
    return Classifier.of(members, [0.25, 0.75], kept)


def expected(classifier: Classifier, frames: np.ndarray, spectrograms: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities as predict gives them."""
    logits = classifier.logits(frames, spectrograms)
    if classifier.correction is None:
        return {name: softmax(values, axis=1) for name, values in logits.items()}
    alone = {name: np.exp(classifier.correction.alone(name, logits[name])) for name in ("audio", "visual")}
    return {"fused": np.exp(classifier.correction.apply(logits)), **alone}


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_program_answers_as_predict_does(kind: str, ensemble: Classifier, store: Store, tmp_path: Path) -> None:
    file = tmp_path / ("model.onnx" if kind == "onnx" else "model.pt2")
    if kind == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        write_program(ensemble, "onnx", file, None)
        session = runtime.InferenceSession(file)
        about = json.loads(session.get_modelmeta().custom_metadata_map["raygap"])
    else:
        write_program(ensemble, "torch", file, None)
        told = {ABOUT: ""}
        program = torch.export.load(file, extra_files=told).module()
        about = json.loads(told[ABOUT])
    for clips in (1, 5):
        frames, spectrograms = np.array(store.frames[:clips]), np.array(store.spectrograms[:clips])
        given = {"frames": frames, "spectrograms": spectrograms}
        assert {name: [*values.shape[1:]] for name, values in given.items()} == {
            name: one["shape"][1:] for name, one in about["inputs"].items()
        }
        if kind == "onnx":
            answer = dict(zip(about["outputs"], session.run([*about["outputs"]], given), strict=True))
        else:
            answer = program(torch.from_numpy(frames), torch.from_numpy(spectrograms))
        for name, probabilities in expected(ensemble, frames, spectrograms).items():
            np.testing.assert_allclose(answer[name], probabilities, atol=TOLERANCE)
    assert (about["class_names"], about["networks"]) == (list(store.class_names), 2)
    assert about["correction"] == "temperature_weights"


def test_steps_of_features_may_be_of_any_number(ensemble: Classifier, tmp_path: Path) -> None:
    fields = {"method": "joint", "prepare.input": "features", "model.encoder": "transformer", "model.width": 4}
    config = from_mapping(FIELDS | fields)
    channels = {"audio": 6, "visual": 3}
    network = trial_network(config, 3, find_method("joint"), channels).eval()
    statistics = {f"{name}_{what}": [0.5] * count for name, count in channels.items() for what in ("mean", "std")}
    classifier = dataclasses.replace(
        ensemble, config=config, network=network, statistics=statistics, members=(), weights=(), correction=None
    )
    write_program(classifier, "torch", tmp_path / "model.pt2", {"audio": True, "visual": False})
    program = torch.export.load(tmp_path / "model.pt2").module()
    draw = np.random.default_rng(0)
    for clips, steps in ((1, 9), (4, 2)):
        sound = draw.normal(size=(clips, steps, 7)).astype(np.float32)
        sound[..., -1] = 1
        sound[0, steps // 2 :] = 0
        pictures = draw.normal(size=(clips, 3)).astype(np.float32)
        answer = program(torch.from_numpy(pictures), torch.from_numpy(sound))
        for name, probabilities in expected(classifier, pictures, sound).items():
            np.testing.assert_allclose(answer[name], probabilities, atol=TOLERANCE)


def test_safetensors_is_a_checkpoint_to_the_last_bit(ensemble: Classifier, store: Store, tmp_path: Path) -> None:
    for member in ensemble.members:
        export_tensors(load(member.path), tmp_path / "model.safetensors")
        again = Classifier.load(tmp_path / "model.safetensors")
        assert (again.fingerprint, again.config) == (member.fingerprint, member.config)
        given = np.array(store.frames[:5]), np.array(store.spectrograms[:5])
        for name, logits in member.logits(*given).items():
            np.testing.assert_array_equal(again.logits(*given)[name], logits)


class Branching(nn.Module):
    """What torch.export cannot follow."""

    out_features = 16

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :16] if float(x.sum()) > 0 else x.flatten(1)[:, 16:32]


def test_a_network_that_cannot_be_followed_costs_a_line(store: Store, tmp_path: Path) -> None:
    list(train(from_mapping(FIELDS | {"method": "joint"}), store, tmp_path / "run"))
    classifier = Classifier.load(tmp_path / "run" / "best.pt")
    classifier.network.audio_encoder = Branching()
    with pytest.raises(UserError, match=r"^torch.export cannot follow this network \(.*; --to safetensors") as said:
        write_program(classifier, "torch", tmp_path / "model.pt2", None)
    assert len(str(said.value).splitlines()) == 1
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load(tmp_path / "bad.safetensors")
