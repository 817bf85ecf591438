"""reconboost: one modality at a time learns what the other has not, then both are set right together.

Hua, Xu, Bao, Yang, Huang: ReconBoost: Boosting Can Achieve Modality Reconcilement, ICML 2024.

The answer is the sum of two learners, an encoder with a linear head each. With p_m their softmax probabilities and y
the true class, `boost_epochs` epochs train modality m alone, the other one frozen:

L_i = (1 - reconcile * p_other(y)) CE(p_m, y) + consolidate * |p_m - p_other|^2

The first factor is gradient boosting with the reconcilement by a KL divergence: what the other knows counts less; the
second term is the memory consolidation. Then `rectify_epochs` train CE of the sum with both (global rectification), and
the other modality has its turn, from audio on. The optimiser forgets its momentum with every change, as in the code.

Weights are those of the code for CREMA-D, 5, 1 and 0.5 with means over the classes, scaled so that the first is 1 (for
AVE the first is 4: reconcile=0.25, consolidate=0.125); the learning rate makes up for that. Its consolidation is
computed of constants on both sides and so has no gradient; here p_m has one, else the term would do nothing. Left out:
a factor on the sum that the code learns, which changes no answer, and its one head of two layers for both. Its learners
were trained alone beforehand: here that is the warm-up, umt's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.methods.base import Method
from raygap.methods.umt import Umt

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Autocast, Optimizer, Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of reconboost."""

    boost_epochs: int = Field(4, ge=1, le=1000, json_schema_extra=LATER)
    """Adaptive epochs of one modality alone."""
    rectify_epochs: int = Field(4, ge=0, le=1000, json_schema_extra=LATER)
    """Epochs of both together after them; then the other modality has its turn."""
    reconcile: float = Field(0.2, ge=0, le=1, json_schema_extra=LATER)
    """How much less a clip counts that the other modality is right about."""
    consolidate: float = Field(0.1, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the squared distance to the other modality's probabilities."""


MODALITIES = ("audio", "visual")


class ReconBoost(Method):
    """Boosting of one modality, rectification of both, boosting of the other."""

    sections = {"reconboost": Settings}
    plain_unimodal = False
    plain_terms = Umt.plain_terms

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """The learners share no weight, and there is nothing after the adaptive stage."""
        super().check(config)
        if config.model.fusion != "sum" or config.model.readout != "split":
            raise UserError(f"{config.method} adds up two learners; set model.fusion=sum and model.readout=split")
        if config.purify.epochs:
            raise UserError(f"{config.method} has no loss for purification; set purify.epochs=0")

    def turn(self, epoch: int) -> tuple[str | None, bool]:
        """The modality that an epoch boosts, None in a rectification, and whether that begins with this epoch."""
        settings = self.config.reconboost
        stage, place = divmod(epoch - self.config.warmup.epochs, settings.boost_epochs + settings.rectify_epochs)
        if place < settings.boost_epochs:
            return MODALITIES[stage % 2], place == 0
        return None, place == settings.boost_epochs

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The loss of the modality whose turn it is, or of both."""
        modality, _ = self.turn(self.epoch)
        if modality is None:
            return {"fusion": self.cross_entropy(outputs.fused, labels).mean()}
        other = MODALITIES[modality == "audio"]
        known = getattr(outputs, other).detach().float().softmax(1)
        logits = getattr(outputs, modality)
        settings = self.config.reconboost
        new = 1 - settings.reconcile * known.gather(1, labels[:, None])[:, 0]
        distance = (logits.float().softmax(1) - known).square().sum(1)
        return {
            modality: (new * self.cross_entropy(logits, labels)).mean(),
            "consolidation": settings.consolidate * distance.mean(),
        }

    def train_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """A step after a change begins without momentum."""
        if step.number == 0 and self.turn(step.epoch)[1]:
            optimizer.state.clear()
        return super().train_step(network, optimizer, step, autocast)
