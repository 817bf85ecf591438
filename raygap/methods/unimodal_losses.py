"""Uniform sum of the fused and both unimodal cross-entropies: the fair baseline for all that has unimodal losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raygap.methods.base import Method
from raygap.methods.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Terms
    from raygap.models.outputs import Outputs


class UnimodalLosses(Method):
    """loss.fusion_weight * CE(fused) + loss.unimodal_weight * (CE(audio) + CE(visual)) after the warm-up."""

    sections = {"loss": Loss}
    unimodal_losses = True
    mixes = True

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The same weights for every clip."""
        loss = self.config.loss
        return {
            "fusion": loss.fusion_weight * self.cross_entropy(outputs.fused, labels).mean(),
            "audio": loss.unimodal_weight
            * self.weighted("audio", self.cross_entropy(outputs.audio, labels, "audio"), index, "audio"),
            "visual": loss.unimodal_weight
            * self.weighted("visual", self.cross_entropy(outputs.visual, labels, "visual"), index, "visual"),
        }
