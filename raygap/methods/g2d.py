"""g2d: unimodal teachers are distilled into features and answer, and the weaker modality leads at first.

Rakib, Bagavathi: G2D: Boosting Multimodal Learning with Gradient-Guided Distillation, ICCV 2025.

With two teachers, each an encoder and a head trained on its modality alone, z_m and t_m their features and logits,

L = CE(fused) + logit_weight * sum over m of KL(softmax(t_m) || softmax(fused))
    + feature_weight * sum over m of the mean squared distance between the features of encoder m and z_m.

In a first part of the training, `led` of it, a batch of which teacher m has the higher summed true-class score trains
no weight of encoder m: the other modality leads (sequential modality prioritisation).

As in its code: temperature 1, all weights 1, 150 of 300 epochs led, weights alone are stopped, there those of
convolutions (normalisation goes on, and so do momentum and weight decay), and the fused logits are the mean of two
linear heads', which take the fusion's place; model.fusion has none in it. The teachers are umt's: trained side by side
in the warm-up, after which network and optimiser start anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.base import layer_weights
from raygap.methods.umt import TaughtOutputs, Umt, squared_distance

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of g2d."""

    logit_weight: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the distance between the answer and the teachers' answers."""
    feature_weight: float = Field(1.0, ge=0, le=1000, json_schema_extra=LATER)
    """Weight of the distance to the teachers' features."""
    led: float = Field(0.5, ge=0, le=1, json_schema_extra=LATER)
    """Share of the adaptive stage in which the modality with the weaker teacher leads."""


class G2D(Umt):
    """Distillation of two unimodal teachers, with turns."""

    sections = {"g2d": Settings}

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Both modalities are read out through their heads; and what teachers need."""
        super().check(config)
        if config.model.readout != "split":
            raise UserError(f"{config.method} has a head a modality in place of the fusion; set model.readout=split")

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """The fusion is the mean of two heads."""
        from raygap.models.heads import MeanOfHeads

        network.fusion = MeanOfHeads(network.sizes["audio"], network.sizes["visual"], network.classes)

    def adaptive_terms(self, outputs: TaughtOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch."""
        settings, taught = self.config.g2d, outputs.taught
        terms = {"fusion": self.cross_entropy(outputs.fused, labels).mean()}
        for name in ("audio", "visual"):
            distance = squared_distance(getattr(outputs, f"{name}_features"), getattr(taught, f"{name}_features"))
            terms[f"logits_{name}"] = settings.logit_weight * divergence(getattr(taught, name), outputs.fused).mean()
            terms[f"distance_{name}"] = settings.feature_weight * distance
        return terms

    def backward(self, network: Network, outputs: TaughtOutputs, terms: Terms, step: Step) -> None:
        """Stops the convolutions of the modality with the stronger teacher."""
        super().backward(network, outputs, terms, step)
        config = self.config
        led = config.g2d.led * (config.epochs - config.warmup.epochs)
        if step.epoch - config.warmup.epochs >= led:
            return
        taught = (outputs.taught.audio, outputs.taught.visual)
        scores = self.batch_mean(torch.stack([true_class_score(logits, step.labels) for logits in taught]), step)
        for name, learns in zip(("audio", "visual"), scores <= scores.flip(0), strict=True):
            self.note(f"g2d_led_by_{name}", learns.float())
            for weight in layer_weights(network.get_submodule(f"{name}_encoder")):
                if weight.grad is not None:
                    weight.grad *= learns


def divergence(taught: Tensor, answer: Tensor) -> Tensor:
    """KL(softmax(taught) || softmax(answer)), in float32: (B, C) twice -> (B,)."""
    there, here = taught.float().log_softmax(1), answer.float().log_softmax(1)
    return (there.exp() * (there - here)).sum(1)
