"""The paper's method: losses weighted by the posterior of the mixture over the modality gap.

L_i = fusion_weight * w_f(r_i) * CE(fused) + unimodal_weight * w_u(r_i) * (CE(audio) + CE(visual))
      + align_weight * w_a(r_i) * A_i, with w_f = 1 + focus * (1 - r), w_a = 1 + focus * r (or its inverse, or 1),
w_u = w_f or 1, each of mean 1 over the ledger, and r_i = P(imbalanced given the gap). The paper does not publish its
formulas; these are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raygap.config import LATER, acts_when
from raygap.lazy import torch
from raygap.methods.base import Method
from raygap.methods.losses import ALIGNING, Align, GuidedLoss, alignment, excess_gap

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.imbalance.ledger import Ledger
    from raygap.methods.base import Terms
    from raygap.models.outputs import Outputs


class AdaptiveLoss(GuidedLoss):
    """Weights of the adaptive stage's loss."""

    shift_weight: float = Field(0.0, ge=0, le=100, json_schema_extra=LATER | acts_when(ALIGNING))
    """Weight, inside the alignment term, of pulling imbalanced clips to the balanced mean."""
    focus_scope: Literal["all", "fusion"] = Field(
        "fusion", json_schema_extra=LATER | acts_when({"loss.focus": ">0", "loss.unimodal_weight": ">0"})
    )
    """Focus the fused and unimodal losses, or the fused loss alone."""


class AdaptiveAlign(Align):
    """The alignment term."""

    focus: Literal["imbalanced", "balanced", "uniform"] = Field(
        "imbalanced", json_schema_extra=LATER | acts_when(ALIGNING | {"loss.focus": ">0"})
    )
    """Clips on which it aligns more."""


class GmmAdaptive(Method):
    """Weights fusion towards balanced clips and alignment towards imbalanced ones."""

    sections = {"loss": AdaptiveLoss, "align": AdaptiveAlign}
    guided = True
    unimodal_losses = True

    def separate(self, ledger: Ledger) -> dict[str, float]:
        """The mixture over the gaps, and the weights that follow from it."""
        metrics = super().separate(ledger)
        focus, balanced = self.config.loss.focus, ledger.balanced.astype(np.float64)
        focused = {"imbalanced": 1 - balanced, "balanced": balanced, "uniform": np.zeros_like(balanced)}
        self.set_weight("fusion", 1 + focus * balanced)
        self.set_weight("unimodal", 1 + focus * balanced * (self.config.loss.focus_scope == "all"))
        self.set_weight("align", 1 + focus * focused[self.config.align.focus])
        # The balanced component's mean on the scale of |gap|, whichever score the mixture was fitted to.
        balanced_gap = float((balanced * np.abs(ledger.gap)).sum() / max(balanced.sum(), 1e-12))
        self.weights["imbalanced"] = torch.as_tensor(1 - balanced, dtype=torch.float32, device=self.device)
        self.weights["balanced_gap"] = torch.tensor(balanced_gap, device=self.device)
        return metrics

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The weighted losses of the batch."""
        loss = self.config.loss
        align = alignment(outputs, labels, self.config.align.kind)
        if loss.shift_weight and self.weights:
            excess = excess_gap(outputs, labels, self.weights["balanced_gap"])
            align = align + loss.shift_weight * self.weights["imbalanced"][index] * excess
        audio, visual = self.cross_entropy(outputs.audio, labels), self.cross_entropy(outputs.visual, labels)
        return {
            "fusion": loss.fusion_weight * self.weighted("fusion", self.cross_entropy(outputs.fused, labels), index),
            "audio": loss.unimodal_weight * self.weighted("unimodal", audio, index, "audio"),
            "visual": loss.unimodal_weight * self.weighted("unimodal", visual, index, "visual"),
            "align": loss.align_weight * self.weighted("align", align, index),
        }
