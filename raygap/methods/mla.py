"""mla: one modality after the other trains its encoder and a head that both share.

Zhang, Yoon, Bansal, Yao: Multimodal Representation Learning by Alternating Unimodal Adaptation, CVPR 2024.

A step of a batch is two: CE(h(z_audio)) updates the audio encoder and the shared head h, then CE(h(z_visual)) the
visual one and h. So that h keeps what the modality before taught it, the gradient of its weights is multiplied by P,
which projects away from the features seen before: with the mean z of an update's features, recursively

q = P z / (alpha + z' P z),  P <- P - q z' P   (P = 1 at first; their eq. 4).

The answer is the sum of both logits weighted by how sure they are: weights in proportion to exp(-entropy) (their eq. 8;
mla.fusion=dynamic), or by 1/2 each (fixed).

As in its code: alpha falls within an epoch, to alpha^(1 + share of its steps), from 0.1; P is divided by its Frobenius
norm after each update, without which it shrinks to nothing in a few hundred steps; both encoders run before the first
of the two updates. Unlike it (and as the paper says), a gradient is projected with the P of the updates before it, not
of its own, the denominator is a number, not a matrix, and each clip has weights of its own, not a whole test batch.
Moreover the code looks for the head's weights by a name that does not exist, so that its projection never runs:
published numbers are those of taking turns. The shared head is the fusion; model.fusion and the read-out of separate
heads have no place in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.lazy import torch
from raygap.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Autocast, Optimizer, Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of mla."""

    alpha: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Softness of the projection of the shared head's gradients: it falls from alpha to alpha squared in an epoch."""
    fusion: Literal["dynamic", "fixed"] = "dynamic"
    """Answer weighted by how sure each modality is of the clip, or the mean of both."""


class Mla(Method):
    """Two updates a batch, one a modality."""

    sections = {"mla": Settings}
    one_step = False
    droppable = False
    projection: Tensor | None = None
    """P: (features, features)."""

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Both modalities are read out through the shared head."""
        super().check(config)
        if config.model.readout != "split":
            raise UserError(f"{config.method} has one shared head; set model.readout=split")

    @classmethod
    def equal_features(cls, config: TrialConfig) -> bool:
        """One head reads both."""
        return True

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """The fusion is the shared head."""
        from raygap.models.heads import SharedHead

        network.fusion = SharedHead(network.features, network.classes, config.mla.fusion == "dynamic")

    def train_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """The two updates; the outputs are those before the first."""
        with autocast():
            outputs = self.outputs(network, step)
        terms = {}
        for name, features in (("audio", outputs.audio_features), ("visual", outputs.visual_features)):
            with autocast():
                logits = network.fusion.head(features)
            terms[name] = self.cross_entropy(logits, step.labels).mean()
            optimizer.zero_grad(set_to_none=True)
            self.backward(network, outputs, {name: step.factor * terms[name]}, step)
            self._project(network.fusion.head.weight, self.batch_mean(features.T, step), step)
            optimizer.step()
        return outputs, terms

    def _project(self, weight: torch.nn.Parameter, seen: Tensor, step: Step) -> None:
        if self.projection is None:
            self.projection = torch.eye(len(seen), device=self.device)
        weight.grad = weight.grad @ self.projection
        steps = math.ceil(len(self.labels) / self.config.optimizer.batch_size)
        self.projection = projected(self.projection, seen, self.config.mla.alpha ** (1 + step.number / steps))

    def state_dict(self) -> dict[str, Any]:
        """Adds P."""
        return {**super().state_dict(), "projection": self.projection}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.projection = state["projection"]
        if self.projection is not None:
            self.projection = self.projection.to(self.device)


def projected(projection: Tensor, seen: Tensor, alpha: float) -> Tensor:
    """P (F, F) after features of mean `seen` (F,), of norm 1."""
    image = projection @ seen
    projection = projection - torch.outer(image, image) / (alpha + seen @ image)
    return projection / projection.norm()
