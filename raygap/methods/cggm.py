"""cggm: classifiers of each modality tell how fast it improves; the slower one gets larger gradients.

Guo, Jin, Chen, Zhao: Classifier-guided Gradient Modulation for Enhanced Multimodal Learning, NeurIPS 2024.

A classifier a modality reads its features without shaping them (here the separate heads). With e_m the rise of its
accuracy on this batch over that on the last one, B_m = (sum of e - e_m) / sum of e: the share of the other modality.
The gradients of encoder m are multiplied by rho * B_m. L = CE(fused) + direction * D, with B of the step before and

D = (sum over m of |B_m| - B_m cos(weights of classifier m, weights with which the fusion reads m)) / 2,

which turns the fusion's weights alone. All gradients are clipped to `clip_norm`.

The paper compares the directions of gradients, its code those of the weights, which is what we do. Where both rises
cancel out, so that the code would divide by 1e-8, B is 1/2 for both, as it is before the second step. The code has one
output layer over fused features and compares it as a whole; a linear fusion has one half a modality. It tells of no
audio-visual data set; its numbers are those for Food101.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of cggm."""

    rho: float = Field(1.3, gt=0, le=10, json_schema_extra=LATER)
    """Factor on the modulated gradients of both encoders."""
    direction: float = Field(0.05, ge=0, le=10, json_schema_extra=LATER)
    """Weight of the agreement between the classifiers' weights and the fusion's."""
    clip_norm: float = Field(0.8, gt=0, le=1e6, json_schema_extra=LATER)
    """Norm that all gradients together are clipped to."""


@dataclass
class GuidedOutputs(Outputs):
    """A batch, and how the fusion's weights lie to the classifiers'."""

    cosines: Tensor
    """(2,): of audio and visual."""


class Cggm(Joint):
    """CE(fused), with gradients guided by classifiers."""

    sections = {"cggm": Settings}
    scale_free = False
    accuracies: Tensor | None = None
    """(2,): of the classifiers on the last batch."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.balance = torch.full((2,), 0.5, device=self.device)
        """B of audio and visual."""

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """There must be classifiers, and weights of the fusion to compare theirs with."""
        super().check(config)
        if config.model.readout != "heads" or config.model.fusion not in ("concat", "sum"):
            raise UserError(
                f"{config.method} needs model.readout=heads and model.fusion concat or sum, "
                f"not {config.model.readout} and {config.model.fusion}"
            )

    def outputs(self, network: Network, step: Step) -> GuidedOutputs:
        """Adds the cosines."""
        outputs = super().outputs(network, step)
        heads: Any = network.heads
        pairs = zip(reading_weights(network.fusion), (heads["audio"].weight, heads["visual"].weight), strict=True)
        cosines = [torch.cosine_similarity(w.flatten(), guide.detach().flatten(), 0) for w, guide in pairs]
        return GuidedOutputs(**vars(outputs), cosines=torch.stack(cosines))

    def adaptive_terms(self, outputs: GuidedOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch, and the classifiers' own."""
        apart = (self.balance.abs() - self.balance * outputs.cosines.float()).sum() / 2
        return super().adaptive_terms(outputs, labels, index) | {"direction": self.config.cggm.direction * apart}

    def backward(self, network: Network, outputs: GuidedOutputs, terms: Terms, step: Step) -> None:
        """Modulates the gradients of both encoders, and clips all."""
        super().backward(network, outputs, terms, step)
        right = torch.stack([logits.argmax(1) == step.labels for logits in (outputs.audio, outputs.visual)])
        now = self.batch_mean(right, step)
        self.balance = balance(now - (now if self.accuracies is None else self.accuracies))
        self.accuracies = now
        settings = self.config.cggm
        for name, share in zip(("audio", "visual"), self.balance, strict=True):
            self.note(f"cggm_share_{name}", share)
            for parameter in network.get_submodule(f"{name}_encoder").parameters():
                if parameter.grad is not None:
                    parameter.grad *= settings.rho * share
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)

    def state_dict(self) -> dict[str, Any]:
        """Adds the last accuracies and shares."""
        return {**super().state_dict(), "accuracies": self.accuracies, "balance": self.balance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.accuracies, self.balance = state["accuracies"], state["balance"].to(self.device)
        if self.accuracies is not None:
            self.accuracies = self.accuracies.to(self.device)


def reading_weights(fusion: Any) -> tuple[Tensor, ...]:
    """With which a linear fusion reads audio and visual, (classes, features) each."""
    if hasattr(fusion, "head"):
        return fusion.head.weight.split(fusion.sizes, 1)
    return fusion.audio.weight, fusion.visual.weight


def balance(rises: Tensor) -> Tensor:
    """B of audio and visual from the rises of their accuracies, (2,) each."""
    whole = rises.sum()
    cancel = whole.abs() < 1e-6
    return torch.where(cancel, 0.5, rises.flip(0) / torch.where(cancel, 1.0, whole))
