"""dgl: encoders learn from the unimodal losses alone, the fusion from the fused loss alone.

Wei, Luo, Luo: Boosting Multimodal Learning via Disentangled Gradient Learning, ICCV 2025.

CE(fused) of features without gradient trains the fusion; alpha * (CE(audio) + CE(visual)), whose gradient does not
reach the fusion's weights, trains the encoders. A modality's own logits are the fused ones with zeros for the other's
features, so that no head is added.

As in its code all gradients are clipped to a norm of 40. There, fusion sum reads a modality alone without the other's
bias, and film and gated put the modality in both places; here each sees zeros. Separate heads are probes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of dgl."""

    alpha: float = Field(4.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the unimodal losses, which alone train the encoders."""


CLIP_NORM = 40.0


@dataclass
class ApartOutputs(Outputs):
    """A batch, and the logits through which its encoders learn, (B, classes) each."""

    alone_audio: Tensor
    alone_visual: Tensor


class Dgl(Joint):
    """Disentangled gradients of encoders and fusion."""

    sections = {"dgl": Settings}
    scale_free = False

    def outputs(self, network: Network, step: Step) -> ApartOutputs:
        """The fused logits reach the fusion alone, the others the encoders alone."""
        whole = super().outputs(network, step)
        audio, visual = whole.audio_features, whole.visual_features
        frozen = {name: parameter.detach() for name, parameter in network.fusion.named_parameters()}
        alone = [
            torch.func.functional_call(network.fusion, frozen, features)
            for features in ((audio, torch.zeros_like(visual)), (torch.zeros_like(audio), visual))
        ]
        fused = network.fuse(audio.detach(), visual.detach())
        return ApartOutputs(fused, whole.audio, whole.visual, audio, visual, *alone)

    def adaptive_terms(self, outputs: ApartOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch, and the probes' own."""
        alpha = self.config.dgl.alpha
        return super().adaptive_terms(outputs, labels, index) | {
            "alone_audio": alpha * self.cross_entropy(outputs.alone_audio, labels).mean(),
            "alone_visual": alpha * self.cross_entropy(outputs.alone_visual, labels).mean(),
        }

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Clips the gradients."""
        super().backward(network, outputs, terms, step)
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
