"""The two-modality network: an encoder a modality, the fusion, the unimodal read-out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raygap.config import Model
from raygap.errors import UserError
from raygap.models.encoders import encode_frames, make_encoder
from raygap.models.fusion import FUSIONS
from raygap.models.outputs import Outputs


class Network(nn.Module):
    """Audio (B, 1, F, S) and visual (B, T, 3, H, W) to fused and unimodal logits."""

    def __init__(self, model: Model, classes: int) -> None:
        super().__init__()
        self.audio_encoder = make_encoder(model, channels=1)
        self.visual_encoder = make_encoder(model, channels=3)
        self.features = features = self.audio_encoder.out_features
        if self.visual_encoder.out_features != features:
            other = self.visual_encoder.out_features
            raise UserError(f"model.encoder {model.encoder}: {features} features for sound, but {other} for pictures")
        self.classes = classes
        self.fusion: Any = FUSIONS[model.fusion](features, classes)  # a module; methods put in kinds of their own
        self.heads: nn.ModuleDict | None = None
        if model.readout == "heads":
            self.heads = nn.ModuleDict({m: nn.Linear(features, classes) for m in ("audio", "visual")})
        self.extra = nn.ModuleDict()
        for module in (self.fusion, self.heads):  # an encoder of one's own may come with weights
            if module is not None:
                draw_linear_weights(module)

    def forward(self, audio: Tensor, visual: Tensor, probe: bool = False) -> Outputs:
        """`probe` cuts the separate heads off the encoders: they are trained to read, not to shape, the features."""
        return self.read(self.audio_encoder(audio), encode_frames(self.visual_encoder, visual), probe)

    def read(self, z_audio: Tensor, z_visual: Tensor, probe: bool = False) -> Outputs:
        """The logits that features (B, features) give."""
        if self.heads is None:
            u_audio, u_visual = self.fusion.split(z_audio, z_visual)
        else:
            u_audio = self.heads["audio"](z_audio.detach() if probe else z_audio)
            u_visual = self.heads["visual"](z_visual.detach() if probe else z_visual)
        return Outputs(self.fusion(z_audio, z_visual), u_audio, u_visual, z_audio, z_visual)


def draw_linear_weights(module: nn.Module) -> None:
    """Initial weights of all linear layers, as the field's code bases draw them; biases are zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_network(
    model: Model, classes: int, seed: int, extend: Callable[[Network], None] = lambda network: None
) -> Network:
    """A network whose initial weights follow from `seed` alone, whatever was drawn before.

    `extend` may add modules to the network's `extra`, or replace its fusion, after its own weights are drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(model, classes)
        extend(network)
    return network
