"""A classifier as a program that needs no raygap: torch.export's or ONNX's.

It takes clips as a store keeps them and gives what `predict` answers to them; scaling, the correction of the decision
layer and the mean over an ensemble are inside. It computes in fp32, whatever the training's precision was.
"""

import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.predictions import MODALITIES, READOUTS, SMALLEST_PROBABILITY
from raygap.errors import UserError, first_line
from raygap.extras import need
from raygap.imbalance.correction import TemperatureWeights
from raygap.methods import find_method
from raygap.provenance import made_by
from raygap.schema import to_mapping
from raygap.training.inference import Classifier

ABOUT = "raygap.json"
"""Under this name a torch.export file keeps what describe() says; ONNX has it in its metadata, as `raygap`."""
STEPS = Mapping[str, bool]
"""Of features, by modality: whether a clip is steps (L, D + 1), not one vector."""


class Program(nn.Module):
    """Frames and spectrograms to probabilities, fused and by modality, each (B, C) float32."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        members = classifier.members or (classifier,)
        self.networks = nn.ModuleList(member.network.float().eval() for member in members)
        self.methods = [find_method(member.config.method) for member in members]
        self.shares = classifier.weights or (1.0,)
        self.of_features = classifier.config.prepare.input == "features"
        kept = classifier.correction
        if kept is not None and not isinstance(kept, TemperatureWeights):
            raise UserError(f"the correction {kept.name} is not exported; only {TemperatureWeights.name} is")
        self.correction = kept
        for name, values in classifier.statistics.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.cpu().requires_grad_(False)

    def forward(self, frames: Tensor, spectrograms: Tensor) -> dict[str, Tensor]:
        """Of uint8 (B, T, H, W, 3) and float16 (B, F, S), or of features of pictures and of sound."""
        audio, visual = self._scaled(frames, spectrograms)
        outputs = [
            method.predict(cast(Any, network), audio, visual)
            for method, network in zip(self.methods, self.networks, strict=True)
        ]
        logits = {name: self._mixed([getattr(one, name).float() for one in outputs]) for name in READOUTS}
        if self.correction is None:
            return {name: values.softmax(1) for name, values in logits.items()}
        temperatures = {"fused": 1.0, **self.correction.temperatures}
        logs = {name: (values / temperatures[name]).log_softmax(1) for name, values in logits.items()}
        weights = self.correction.readout_weights
        fused = torch.stack([weight * logs[name] for name, weight in weights.items()]).sum(0)
        return {"fused": fused.softmax(1), **{name: logs[name].exp() for name in MODALITIES}}

    def _scaled(self, frames: Tensor, spectrograms: Tensor) -> tuple[Tensor, Tensor]:
        given: Any = self
        if self.of_features:
            return (
                _standardised(spectrograms, given.audio_mean, given.audio_std),
                _standardised(frames, given.visual_mean, given.visual_std),
            )
        visual = (frames.float() - given.frame_mean) / given.frame_std
        audio = (spectrograms.float() - given.spectrogram_mean) / given.spectrogram_std
        return audio[:, None], visual.permute(0, 1, 4, 2, 3)

    def _mixed(self, logits: list[Tensor]) -> Tensor:
        """As ensemble.mixed."""
        if len(logits) == 1:
            return logits[0]
        means = torch.stack([share * one.softmax(1) for share, one in zip(self.shares, logits, strict=True)]).sum(0)
        return means.clamp_min(SMALLEST_PROBABILITY).log()


def _standardised(features: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """As features.scaled."""
    if features.ndim == 2:
        return (features - mean) / deviation
    there = features[..., -1:]
    return torch.cat(((features[..., :-1] - mean) / deviation * there, there), -1)


def describe(classifier: Classifier, steps: STEPS | None = None) -> dict[str, Any]:
    """What another program must know of inputs and outputs, and what made the network; plain values, for JSON."""
    settings = classifier.config.prepare
    inputs: dict[str, dict[str, Any]]
    if settings.input == "features":
        inputs = {
            called: {
                "dtype": "float32",
                "shape": ["batch", *(("steps", count + 1) if steps and steps[name] else (count,))],
                "about": f"features of the {what}, as they are; of steps the last number is 1, and 0 beyond the end",
            }
            for called, name, what, count in (
                ("frames", "visual", "pictures", classifier.network.channels["visual"]),
                ("spectrograms", "audio", "sound", classifier.network.channels["audio"]),
            )
        }
    else:
        sound = f"{settings.spectrogram} of {settings.seconds:g} s at {settings.sample_rate} Hz, mono; see prepare"
        inputs = {
            "frames": {"dtype": "uint8", "shape": ["batch", *frames_shape(settings)], "about": "RGB, 0 to 255"},
            "spectrograms": {"dtype": "float16", "shape": ["batch", *spectrogram_shape(settings)], "about": sound},
        }
    return {
        "class_names": list(classifier.class_names),
        "inputs": inputs,
        "outputs": {
            "fused": "probabilities of the classes (batch, classes), by both modalities",
            "audio": "the same by the sound alone; the answer where a clip has no picture (give zeros for it)",
            "visual": "the same by the picture alone; the answer where a clip has no sound",
        },
        "prepare": settings.model_dump(mode="json"),
        "correction": classifier.correction.name if classifier.correction else None,
        "networks": len(classifier.members) or 1,
        "config": to_mapping(classifier.config),
        "exported_by": made_by(),
    }


def write_program(classifier: Classifier, kind: Literal["torch", "onnx"], file: Path, steps: STEPS | None) -> None:
    """Write what torch.export makes of the classifier, for batches of any size; as ONNX if so asked.

    Raises UserError for a network that torch.export cannot follow, as some of one's own, and where onnx is missing.
    """
    if kind == "onnx":
        need("onnx", "export --to onnx")
    about = describe(classifier, steps)
    program = _traced(Program(classifier), about["inputs"])
    if kind == "torch":
        torch.export.save(program, file, extra_files={ABOUT: json.dumps(about, indent=1)})
        return
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of every operator that it leaves as it is
    names = list(about["inputs"]), list(about["outputs"])
    try:
        made = torch.onnx.export(
            program, (), input_names=names[0], output_names=names[1], dynamo=True, external_data=False, verbose=False
        )
        assert made is not None
        made.model.metadata_props["raygap"] = json.dumps(about)
        made.save(file)
    except Exception as error:  # of many kinds: operators that ONNX lacks, files that cannot be written
        raise UserError(f"{file}: ONNX cannot hold this network ({first_line(error)}); --to torch can") from None


def _traced(program: Program, inputs: Mapping[str, Mapping[str, Any]]) -> "torch.export.ExportedProgram":
    sizes = {"batch": 3, "steps": 5}  # of the example: none of those that torch.export would take for fixed
    examples, dynamic = {}, {}
    batch = torch.export.Dim("batch", min=1)
    for name, one in inputs.items():
        kind = getattr(torch, one["dtype"])
        examples[name] = torch.zeros([sizes.get(size, size) for size in one["shape"]], dtype=kind)
        dynamic[name] = {0: batch} | ({1: torch.export.Dim(f"{name}_steps", min=1)} if "steps" in one["shape"] else {})
    assert [*inspect.signature(program.forward).parameters] == [*examples]
    try:
        with torch.no_grad():
            return torch.export.export(program, tuple(examples.values()), dynamic_shapes=dynamic)
    except Exception as error:  # code of one's own, and torch's many ways to give up
        raise UserError(
            f"torch.export cannot follow this network ({first_line(error)}); --to safetensors keeps its weights"
        ) from None
