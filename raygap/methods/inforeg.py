"""inforeg: in the first epochs the modality that is ahead is held near where it was, so that the other can learn.

Huang, Wei, Yang, Hu: Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition, CVPR 2025.

L = CE(fused) + CE(audio) + CE(visual). What encoder m acquires in an epoch is read from the trace of its Fisher
information T_m: the sum over its convolutional and linear layers of the mean, over a layer's weights, of the squared
gradients of all steps. With t the mean of the last 10 traces and t' that of the 10 before the last, those before the
first epoch being 0, K_m = (t - t') / t; before the first epoch it is 1. While K_m exceeds `threshold` encoder m is in
its prime learning window. If it is then ahead on a batch of b clips, of summed true-class scores s_m > s_other, its
gradients get

strength * exp(tanh(s_m - s_other)) * (its weights - those at the start of the epoch).

That is its code: strength 0.95 for audio and 0.1 for visual. There K is always audio's, whichever is ahead, and the
scores are those of the split read-out, as ours are. b is optimizer.batch_size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.base import Method, layer_weights

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Look, Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of inforeg."""

    strength_audio: float = Field(0.95, ge=0, le=10, json_schema_extra=LATER)
    """How firmly audio is held where it is ahead."""
    strength_visual: float = Field(0.1, ge=0, le=10, json_schema_extra=LATER)
    """How firmly the picture is held where it is ahead."""
    threshold: float = Field(0.05, ge=0, le=1, json_schema_extra=LATER)
    """Relative growth of the Fisher trace above which an encoder is in its prime learning window."""


WINDOW = 10
"""Epochs over which traces are averaged."""
MODALITIES = ("audio", "visual")


class InfoReg(Method):
    """The fused and both unimodal losses, with the modality ahead held back early on."""

    sections = {"inforeg": Settings}
    scale_free = False
    unimodal_losses = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.traces: list[list[float]] = []
        """Of audio and visual, after each adaptive epoch."""
        self.anchors: dict[str, list[Tensor]] = {}
        self.squares: dict[str, list[Tensor]] = {}

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Notes the weights, and which encoders are in their prime learning window."""
        for name in MODALITIES:
            encoder = network.get_submodule(f"{name}_encoder")
            self.anchors[name] = [parameter.detach().clone() for parameter in encoder.parameters()]
            self.squares[name] = [torch.zeros_like(weight) for weight in layer_weights(encoder)]
        growths = [growth([row[place] for row in self.traces]) for place in range(2)]
        self.learning = [value > self.config.inforeg.threshold for value in growths]

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch."""
        return {
            "fusion": self.cross_entropy(outputs.fused, labels).mean(),
            "audio": self.weighted("audio", self.cross_entropy(outputs.audio, labels), index, "audio"),
            "visual": self.weighted("visual", self.cross_entropy(outputs.visual, labels), index, "visual"),
        }

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Holds the encoder that is ahead, and adds up squared gradients."""
        super().backward(network, outputs, terms, step)
        scores = torch.stack([true_class_score(logits, step.labels) for logits in (outputs.audio, outputs.visual)])
        sums = self.batch_mean(scores, step) * self.config.optimizer.batch_size
        lead = sums - sums.flip(0)
        settings = self.config.inforeg
        for place, strength in enumerate((settings.strength_audio, settings.strength_visual)):
            name = MODALITIES[place]
            encoder = network.get_submodule(f"{name}_encoder")
            held = torch.where(lead[place] > 0, strength * lead[place].tanh().exp(), 0.0) * self.learning[place]
            self.note(f"inforeg_held_{name}", held)
            for parameter, anchor in zip(encoder.parameters(), self.anchors[name], strict=True):
                if parameter.grad is not None:
                    parameter.grad += held * (parameter.detach() - anchor)
            for square, weight in zip(self.squares[name], layer_weights(encoder), strict=True):
                if weight.grad is not None:
                    square += weight.grad.square()

    def end_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Adds the traces."""
        super().end_epoch(epoch, metrics)
        row = [float(torch.stack([square.mean() for square in self.squares[name]]).sum()) for name in MODALITIES]
        self.traces.append(row)
        metrics |= {f"inforeg_trace_{name}": trace for name, trace in zip(MODALITIES, row, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Adds the traces."""
        return {**super().state_dict(), "traces": self.traces}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.traces = state["traces"]


def growth(traces: list[float]) -> float:
    """K of an encoder, from its traces so far; 1 if there are none."""
    padded = [0.0] * WINDOW + traces
    now, before = sum(padded[-WINDOW:]), sum(padded[-WINDOW - 1 : -1])
    return (now - before) / now if now > 0 else 1.0
