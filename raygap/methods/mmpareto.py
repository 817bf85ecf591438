"""mmpareto: gradients of the fused and a unimodal loss that do not contradict each other.

Wei, Hu: MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance, ICML 2024.

For each encoder, g_f is the gradient of the fused loss and g_u that of its modality's own. If their cosine over the
whole encoder is positive they are added; else h = 2 w g_f + 2 (1 - w) g_u with the w in [0, 1] of the smallest
|w g_f + (1 - w) g_u| (the Pareto direction of two tasks), brought up to |g_f + g_u| where it is shorter. The encoder
gets gamma times the result. Whatever is no encoder gets the sum of all three gradients.

As in the paper's code, the length is compared a weight tensor, not over the whole encoder, and gamma also multiplies
gradients without conflict. The paper's unimodal losses go through separate heads (readout=heads); the split read-out
works too, and loss.fusion_weight and loss.unimodal_weight (1 in the paper) weigh the losses before all this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.unimodal_losses import UnimodalLosses

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs

Gradients = dict["torch.nn.Parameter", "Tensor"]


class Settings(Section):
    """What is set of mmpareto."""

    gamma: float = Field(1.5, gt=0, le=10, json_schema_extra=LATER)
    """Factor on the encoders' gradients."""


TINY = 1e-12


class MMPareto(UnimodalLosses):
    """The fused and both unimodal losses, reconciled an encoder."""

    sections = UnimodalLosses.sections | {"mmpareto": Settings}

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Three gradients, each summed over the workers, then their integration."""
        fused, audio, visual = (self._gradients(terms[name], network) for name in ("fusion", "audio", "visual"))
        for parameter in fused:
            parameter.grad = fused[parameter] + audio[parameter] + visual[parameter]
        self._reconcile(network.audio_encoder, fused, audio, "audio")
        self._reconcile(network.visual_encoder, fused, visual, "visual")

    def _gradients(self, term: Tensor, network: Network) -> Gradients:
        parameters = [p for p in network.parameters() if p.requires_grad]
        parts = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        flat = self.workers.sum(_joined(parts))
        whole = flat.split([p.numel() for p in parameters])
        return {p: part.view_as(p) for p, part in zip(parameters, whole, strict=True)}

    def _reconcile(self, encoder: torch.nn.Module, fused: Gradients, alone: Gradients, name: str) -> None:
        trained = [p for p in encoder.parameters() if p.requires_grad]
        if not trained:
            return
        both = [_joined([gradients[p] for p in trained]) for gradients in (fused, alone)]
        product = both[0] @ both[1]
        smallest = ((both[1] - both[0]) @ both[1] / (both[0] - both[1]).square().sum().clamp_min(TINY)).clamp(0, 1)
        # Orthogonal gradients, one of them perhaps zero, are in no conflict.
        weight = torch.where(product >= 0, 0.5, smallest)
        for parameter in trained:
            direction = 2 * weight * fused[parameter] + 2 * (1 - weight) * alone[parameter]
            longer = parameter.grad.norm() / direction.norm().clamp_min(TINY)
            parameter.grad = self.config.mmpareto.gamma * longer.clamp_min(1) * direction
        self.note(f"mmpareto_conflicts_{name}", (product < 0).float())


def _joined(gradients: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
