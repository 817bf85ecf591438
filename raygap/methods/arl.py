"""arl: the modality that is less sure, and that the answer relies on less, learns less; both have their own losses.

Wei, Luo, Luo: Improving Multimodal Learning via Imbalanced Learning, ICCV 2025.

The best mixture relies on a modality in inverse proportion to its variance: balance is not the aim. Of a batch, with
u_m the unimodal logits, C_m = sum over the classes of the mean |u_m| says how much the answer relies on m, and H_m, the
mean entropy of softmax(u_m), how unsure it is. Both are divided by their sum over the modalities, H_m then kept at 0.3
or above, and h_m = 1 / H_m divided by the sum of both. With

w = softmax over the modalities of temperature * (C_other * h_m)

the gradients of encoder m are multiplied by 1 + w_m. L = CE(fused) + gamma * (CE(audio) + CE(visual)).

That is its code (the paper's own text we have not seen): in its first six epochs gamma is 1 and nothing is multiplied,
which is our warm-up; a step's w multiplies the gradients of the next one, here of its own; gradients are clipped to a
norm of 40. The code's unimodal logits share the fusion's weights, as the split read-out does; the file that says how is
not public. Separate heads work too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of arl."""

    gamma: float = Field(4.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the unimodal losses."""
    temperature: float = Field(8.0, ge=0, le=100, json_schema_extra=LATER)
    """How far the factors on both encoders' gradients lie apart; 0 makes them equal."""


LEAST_SHARE = 0.3
TINY = 1e-12
CLIP_NORM = 40.0


class Arl(Method):
    """The fused and both unimodal losses, with encoders that learn as much as they are sure."""

    sections = {"arl": Settings}
    scale_free = False
    unimodal_losses = True

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch."""
        gamma = self.config.arl.gamma
        return {
            "fusion": self.cross_entropy(outputs.fused, labels).mean(),
            "audio": gamma * self.weighted("audio", self.cross_entropy(outputs.audio, labels), index, "audio"),
            "visual": gamma * self.weighted("visual", self.cross_entropy(outputs.visual, labels), index, "visual"),
        }

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Multiplies the gradients of both encoders, and clips all."""
        super().backward(network, outputs, terms, step)
        logits = torch.stack((outputs.audio, outputs.visual)).detach().float()
        logs = logits.log_softmax(2)
        reliance = self.batch_mean(logits.abs().sum(2), step)
        entropy = self.batch_mean(-(logs.exp() * logs).sum(2), step)
        weights = learning_shares(reliance, entropy, self.config.arl.temperature)
        encoders = {"audio": network.audio_encoder, "visual": network.visual_encoder}
        for (name, encoder), weight in zip(encoders.items(), weights, strict=True):
            self.note(f"arl_share_{name}", weight)
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter.grad *= 1 + weight
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)


def learning_shares(reliance: Tensor, entropy: Tensor, temperature: float) -> Tensor:
    """w of audio and visual, (2,), from C and H, (2,) each."""
    sureness = 1 / (entropy / entropy.sum().clamp_min(TINY)).clamp_min(LEAST_SHARE)
    relied = reliance / reliance.sum().clamp_min(TINY)
    return torch.softmax(temperature * relied.flip(0) * (sureness / sureness.sum()), 0)
