"""gradient_blending: the fused and both unimodal losses, weighted by how each generalises and overfits.

Wang, Tran, Feiszli: What Makes Training Multi-modal Classification Networks Hard?, CVPR 2020.

Loss = sum over k in {fused, audio, visual} of w_k L_k. Between two checkpoints, with L^T the loss on training clips and
L^V on held-out ones, G_k = -change of L^V_k is the generalisation, O_k = change of (L^V_k - L^T_k) the overfitting, and
w_k is in proportion to G_k / O_k^2 (their proposition 1), with sum 1. Anew every super_epoch epochs (online blending).

The paper measures each loss on a copy of the network that is trained with that loss alone for a super-epoch, which
triples the training; we measure all three on the one network between two super-epochs, and start with equal weights.
The held-out clips are a tenth of the training split, as there, never validation or test; losses on both sides come
without augmentation, from equally many clips. Where the paper is silent: a loss that got worse (G_k < 0) has weight 0,
if all did the weights stay; |O_k| counts as 0.01 at least, lest rounding decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.held_out import HoldsOut
from raygap.methods.losses import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Look, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of gradient_blending."""

    super_epoch: int = Field(10, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs between two estimates of the weights."""
    held_out: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Share of each class that the method does not train on, and measures overfitting with."""


LOSSES = ("fused", "audio", "visual")
LEAST_OVERFITTING = 0.01


class GradientBlending(HoldsOut):
    """Three losses whose weights follow from what the last super-epoch gained."""

    sections = {"gradient_blending": Settings}
    unimodal_losses = True

    def __init__(self, config: TrialConfig, labels: np.ndarray, *others: Any) -> None:
        super().__init__(config, labels, *others)
        self.blend = torch.full((3,), 1 / 3)
        self.before: Tensor | None = None  # (2, 3): losses on compared and held-out clips at the last super-epoch

    @classmethod
    def held_share(cls, config: TrialConfig) -> float:
        """A field."""
        return config.gradient_blending.held_out

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """At the start of a super-epoch, weights anew."""
        if epoch % self.config.gradient_blending.super_epoch or not len(self.held):
            return
        labels = torch.from_numpy(self.labels[np.concatenate((self.compared, self.held))])
        outputs = look(np.concatenate((self.compared, self.held)))
        losses = torch.stack([cross_entropy(getattr(outputs, name), labels) for name in LOSSES], 1)
        now = losses.unflatten(0, (2, -1)).mean(1)
        if self.before is not None:
            self.blend = blended(self.before, now, self.blend)
        self.before = now

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The weighted losses of the batch."""
        fusion, audio, visual = self.blend.tolist()
        return {
            "fusion": fusion * self.cross_entropy(outputs.fused, labels).mean(),
            "audio": audio * self.weighted("audio", self.cross_entropy(outputs.audio, labels), index, "audio"),
            "visual": visual * self.weighted("visual", self.cross_entropy(outputs.visual, labels), index, "visual"),
        }

    def end_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Adds the weights."""
        super().end_epoch(epoch, metrics)
        metrics |= {f"blend_{name}": weight for name, weight in zip(LOSSES, self.blend.tolist(), strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Adds the weights and the last measurement."""
        return {**super().state_dict(), "blend": self.blend, "before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.blend = state["blend"].cpu()
        self.before = None if state["before"] is None else state["before"].cpu()


def blended(before: Tensor, now: Tensor, last: Tensor) -> Tensor:
    """Weights (3,) from the losses (2, 3), training above held out, of two moments; `last` if no loss improved."""
    gained = (before[1] - now[1]).clamp_min(0)
    overfitted = ((now[1] - now[0]) - (before[1] - before[0])).abs().clamp_min(LEAST_OVERFITTING)
    weights = gained / overfitted**2
    return weights / weights.sum() if weights.sum() > 0 else last
