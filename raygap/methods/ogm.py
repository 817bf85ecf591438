"""ogm and ogm_ge: on-the-fly gradient modulation, alone or with generalisation enhancement.

Peng, Wei, Deng, Wang, Hu: Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022.

With s_m = sum over the batch of the softmax score of the true class through the read-out of modality m, and
rho_m = s_m / s_other (eq. 8 and 9): the gradient of encoder m is multiplied by k_m = 1 - tanh(alpha * rho_m) where
rho_m > 1, else by 1 (eq. 10). ogm_ge adds Gaussian noise, with the gradient's standard deviation, to it (eq. 12).

Where the paper is silent we do as its code does: weights are modulated, biases and normalisation are not, each with the
standard deviation of its own gradient, which is taken before the multiplication, for both modalities; modulation ends
after ogm.epochs (the code's one epoch later). Weights are all parameters of two dimensions or more; the code names the
convolutions, which are all that its ResNets have, while of a transformer they are nothing, or the cutting up into
patches alone. What is frozen is not modulated. The paper's unimodal logits are the split read-out; with heads, these
are probes, and any fusion will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.base import layer_weights
from raygap.methods.joint import Joint
from raygap.rng import generator

if TYPE_CHECKING:
    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of ogm."""

    alpha: float = Field(0.8, ge=0, le=10, json_schema_extra=LATER)
    """How much the gradients of the modality that is ahead shrink: by 1 - tanh(alpha * ratio of the scores)."""
    epochs: int = Field(50, ge=1, le=10_000, json_schema_extra=LATER)
    """Adaptive epochs with modulation; those after them train plainly."""


class Ogm(Joint):
    """CE(fused), with smaller steps for the encoder that is ahead."""

    sections = {"ogm": Settings}
    noise = False
    """Add noise to the encoders' gradients."""

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Modulates the gradients of both encoders."""
        super().backward(network, outputs, terms, step)
        if step.epoch - self.config.warmup.epochs >= self.config.ogm.epochs:
            return
        audio, visual = (true_class_score(logits, step.labels) for logits in (outputs.audio, outputs.visual))
        scores = self.batch_mean(torch.stack((audio, visual)), step)
        ratios = scores / scores.flip(0)
        kept = torch.where(ratios > 1, 1 - torch.tanh(self.config.ogm.alpha * ratios), 1.0)
        draw = torch.Generator(self.device)
        draw.manual_seed(int(generator(self.config.seed, "ogm_ge", step.epoch, step.number).integers(2**62)))
        for factor, encoder in zip(kept, (network.audio_encoder, network.visual_encoder), strict=True):
            for weight in layer_weights(encoder):
                if weight.grad is not None:
                    self._modulate(weight, factor, draw)
        self.note("ogm_kept_audio", kept[0])
        self.note("ogm_kept_visual", kept[1])

    def _modulate(self, weight: torch.Tensor, factor: torch.Tensor, draw: torch.Generator) -> None:
        deviation = weight.grad.std() + 1e-8
        weight.grad *= factor
        if self.noise:
            weight.grad += deviation * torch.randn(weight.shape, generator=draw, device=weight.device)
