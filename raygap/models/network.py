"""The two-modality network: an encoder a modality, the fusion, the unimodal read-out."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from raygap.config import MODALITIES, Model
from raygap.errors import UserError
from raygap.models.encoders import MEDIA, encode_frames, make_encoder
from raygap.models.fusion import FUSIONS
from raygap.models.outputs import Outputs


@dataclass
class Dropped:
    """Factors on the features of a training step, by modality: (B, features), or (B, 1)."""

    features: dict[str, Tensor] = field(default_factory=dict)
    """For all that reads them."""
    fused: dict[str, Tensor] = field(default_factory=dict)
    """For the fusion alone."""


class Network(nn.Module):
    """Audio (B, 1, F, S) and visual (B, T, 3, H, W), or features of both, to fused and unimodal logits."""

    def __init__(self, model: Model, classes: int, channels: Mapping[str, int] = MEDIA, weights: bool = True) -> None:
        super().__init__()
        self.audio_encoder = make_encoder(model, "audio", channels["audio"], weights)
        self.visual_encoder = make_encoder(model, "visual", channels["visual"], weights)
        self.channels, self.classes = channels, classes
        self.dropped: Dropped | None = None
        """What training leaves out of this step's features; nothing in evaluation."""
        self.sizes = {"audio": self.audio_encoder.out_features, "visual": self.visual_encoder.out_features}
        """Lengths of the feature vectors."""
        self.fixed = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        """Weights that an encoder of one's own keeps from being trained."""
        # A module; methods put in kinds of their own.
        self.fusion: Any = FUSIONS[model.fusion](self.sizes["audio"], self.sizes["visual"], classes)
        self.heads: nn.ModuleDict | None = None
        if model.readout == "heads":
            self.heads = nn.ModuleDict({m: nn.Linear(self.sizes[m], classes) for m in MODALITIES})
        self.extra = nn.ModuleDict()
        for module in (self.fusion, self.heads):  # an encoder of one's own may come with weights
            if module is not None:
                draw_linear_weights(module)

    @property
    def features(self) -> int:
        """Length of both feature vectors. Raises UserError if they differ, for what needs them equally long."""
        return equal_size(self.sizes)

    def train(self, mode: bool = True) -> Self:
        """As torch's, but what is frozen of the encoders keeps its statistics; a whole encoder is as in use."""
        super().train(mode)
        for encoder in (self.audio_encoder, self.visual_encoder) if mode else ():
            if _frozen(encoder.parameters()):
                encoder.eval()
            for module in encoder.modules():
                if _frozen(module.parameters(recurse=False)):
                    module.training = False
        return self

    def forward(self, audio: Tensor, visual: Tensor, probe: bool = False) -> Outputs:
        """`probe` cuts the separate heads off the encoders: they are trained to read, not to shape, the features."""
        z_audio, z_visual = self.audio_encoder(audio), encode_frames(self.visual_encoder, visual)
        if self.training and self.dropped:
            z_audio, z_visual = _times(z_audio, z_visual, self.dropped.features)
        return self.read(z_audio, z_visual, probe)

    def read(self, z_audio: Tensor, z_visual: Tensor, probe: bool = False) -> Outputs:
        """The logits that features (B, features) give."""
        if self.heads is None:
            u_audio, u_visual = self.fusion.split(z_audio, z_visual)
        else:
            u_audio = self.heads["audio"](z_audio.detach() if probe else z_audio)
            u_visual = self.heads["visual"](z_visual.detach() if probe else z_visual)
        return Outputs(self.fuse(z_audio, z_visual), u_audio, u_visual, z_audio, z_visual)

    def fuse(self, z_audio: Tensor, z_visual: Tensor) -> Tensor:
        """The fused logits of features (B, features), in training without the modality that is dropped of a clip."""
        if self.training and self.dropped:
            z_audio, z_visual = _times(z_audio, z_visual, self.dropped.fused)
        fused: Tensor = self.fusion(z_audio, z_visual)
        return fused


def _times(z_audio: Tensor, z_visual: Tensor, factors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if not factors:
        return z_audio, z_visual
    return z_audio * factors["audio"].to(z_audio.dtype), z_visual * factors["visual"].to(z_visual.dtype)


def _frozen(parameters: Iterable[nn.Parameter]) -> bool:
    trained = [parameter.requires_grad for parameter in parameters]
    return bool(trained) and not any(trained)


def equal_size(sizes: Mapping[str, int]) -> int:
    """The length of both modalities' feature vectors. Raises UserError if they differ."""
    if sizes["audio"] != sizes["visual"]:
        lengths = " and ".join(f"{size} numbers for {modality}" for modality, size in sizes.items())
        raise UserError(
            f"feature vectors of {lengths}: this method needs them equally long; choose such encoders or widths "
            "(model.audio, model.visual)"
        )
    return sizes["audio"]


def draw_linear_weights(module: nn.Module) -> None:
    """Initial weights of all linear layers, as the field's code bases draw them; biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_network(
    model: Model,
    classes: int,
    seed: int,
    extend: Callable[[Network], None] = lambda network: None,
    channels: Mapping[str, int] = MEDIA,
    weights: bool = True,
) -> Network:
    """A network whose initial weights follow from `seed`, and the files that the settings name, alone, whatever was
    drawn before.

    `channels` are those of its inputs (of features: numbers), a modality; with `weights` False no such file is read.
    `extend` may add modules to the network's `extra`, or replace its fusion, after its own weights are drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(model, classes, channels, weights)
        extend(network)
    return network
