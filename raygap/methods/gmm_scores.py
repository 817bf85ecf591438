"""raygap's own method: each modality's loss weighted by how reliable that modality is on the clip.

A mixture over the pair of averaged scores says how probably a clip is good in each modality (q_a, q_v) and in both
(q_j). L_i = fusion_weight * w_f CE(fused) + unimodal_weight * (w_a CE(audio) + w_v CE(visual))
      + align_weight * (q_j / mean q_j) * KL(stopgrad stronger || weaker), with w_m = 1 + focus * q_m and
w_f = 1 + focus * q_a * q_v, each of mean 1 over the ledger. A spoiled modality's own term weighs less; the good one's
keeps its weight.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.imbalance.gap import mixture_values
from raygap.imbalance.mixture import DegenerateMixture
from raygap.imbalance.scores_mixture import Separator, fit_reliability, small_classes
from raygap.lazy import torch
from raygap.methods.base import Method
from raygap.methods.losses import ALIGNING, Align, GuidedLoss, alignment

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.imbalance.ledger import Ledger
    from raygap.imbalance.scores_mixture import Reliability
    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


_PAIR = {"scores.separator": "scores2d"}, {"scores.separator": "auto", "gap.source": ("training", "fresh")}


class Scores(Section):
    """The two-dimensional separator of gmm_scores."""

    beta: float = Field(0.8, ge=0, lt=1)
    """Memory of the averaged scores: 0 keeps the last epoch alone."""
    components: int = Field(4, ge=2, le=16, json_schema_extra=LATER | acts_when(*_PAIR))
    """Components of the mixture over the pair of scores."""
    reg_covar: float = Field(
        1e-3, gt=0, le=1, json_schema_extra=LATER | acts_when({"scores.separator": ("auto", "scores2d", "scores1d")})
    )
    """Added to the diagonal of each covariance."""
    separator: Literal["auto", "scores2d", "scores1d", "min_score", "raw"] = Field("auto", json_schema_extra=LATER)
    """One mixture over the pair, one a modality, one over the smaller score, or the averaged scores themselves; auto:
    one a modality for a history, else one over the pair."""
    distinct: float = Field(
        2.0,
        ge=0,
        le=10,
        json_schema_extra=LATER | acts_when({"scores.separator": ("auto", "scores1d"), "gap.source": "history"}),
    )
    """Ashman's D from which a modality's two groups count in full; at 0.5 less all clips count as good. 0: always."""
    weights: Literal["per_modality", "all"] = Field(
        "per_modality", json_schema_extra=LATER | acts_when({"loss.focus": ">0"})
    )
    """Weigh each modality's loss by its own reliability, or all terms by the joint one."""


class ScoresLoss(GuidedLoss):
    """Weights of the adaptive stage's loss."""

    combine: Literal["weights", "replace"] = Field("weights", json_schema_extra=LATER)
    """Weigh the fused loss by q_a q_v; or leave it unweighted, and show the fused head in training
    q_m z_m + (1 - q_m) mean_m: where a modality is not good, the mean features of the clips where it is."""


class ScoresAlign(Align):
    """The alignment term."""

    mask: Literal["balanced", "all"] = Field("balanced", json_schema_extra=LATER | acts_when(ALIGNING))
    """Clips on which it aligns."""


class GmmScores(Method):
    """Weights every term by the reliability of the modalities it uses."""

    sections = {"loss": ScoresLoss, "align": ScoresAlign, "scores": Scores}
    guided = True
    own_separator = True
    unimodal_losses = True
    separator_state: Any = None

    @classmethod
    def score_memory(cls, config: TrialConfig) -> float:
        """As set."""
        return config.scores.beta

    def separate(self, ledger: Ledger) -> dict[str, float]:
        """Reliabilities of every clip and the weights that follow from them."""
        reliability = self.reliability(ledger)
        audio, visual, joint = (self.control(q) for q in (reliability.audio, reliability.visual, reliability.joint))
        ledger.good_audio[:], ledger.good_visual[:], ledger.balanced[:] = audio, visual, joint
        focus = self.config.loss.focus
        if self.config.scores.weights == "all":
            for name in ("fusion", "audio", "visual"):
                self.set_weight(name, 1 + focus * joint)
        else:
            self.set_weight("audio", 1 + focus * audio)
            self.set_weight("visual", 1 + focus * visual)
            self.set_weight("fusion", 1 + focus * audio * visual)
        self.set_weight("align", joint if self.config.align.mask == "balanced" else np.ones_like(joint))
        for name, good in (("good_audio", audio), ("good_visual", visual)):
            self.weights[name] = torch.as_tensor(good, dtype=torch.float32, device=self.device)
        return {
            "good_audio_share": float((reliability.audio > 0.5).mean()),
            "good_visual_share": float((reliability.visual > 0.5).mean()),
            "imbalanced_share": float((reliability.joint < 0.5).mean()),
            **self.history_metrics(ledger),
        }

    def history_metrics(self, ledger: Ledger) -> dict[str, float]:
        """Beside the reliabilities: the mixture over the gap of the history, and classes too small to be centred.

        It decides nothing here, and where it is degenerate it is left out.
        """
        if self.config.gap.source != "history":
            return {}
        with suppress(DegenerateMixture):
            self.imbalanced(ledger)
        return {"history_uncentred_classes": float(len(small_classes(self.labels))), **self.mixture_metrics(ledger)}

    def gap_values(self, ledger: Ledger) -> np.ndarray:
        """The signed gap."""
        return mixture_values(*self.fitted_scores(ledger), "signed")

    def fitted_scores(self, ledger: Ledger) -> tuple[np.ndarray, np.ndarray]:
        """Of this training the averages."""
        if self.config.gap.source == "training":
            return ledger.audio_average, ledger.visual_average
        return super().fitted_scores(ledger)

    def reliability(self, ledger: Ledger) -> Reliability:
        """Fitted to the averaged scores, or to those of the history, by class. Raises DegenerateMixture."""
        scores, by_history = self.config.scores, self.config.gap.source == "history"
        auto: Separator = "scores1d" if by_history else "scores2d"
        reliability, self.separator_state = fit_reliability(
            *self.fitted_scores(ledger),
            separator=auto if scores.separator == "auto" else scores.separator,
            components=scores.components,
            reg_covar=scores.reg_covar,
            n_init=self.config.mixture.n_init,
            seed=self.config.seed,
            start=self.separator_state,
            classes=self.labels if by_history else None,
            distinct=scores.distinct if by_history else 0.0,
        )
        return reliability

    def outputs(self, network: Network, step: Step) -> Outputs:
        """With combine=replace the fused logits are of features that stand in for those of a spoiled modality."""
        outputs = super().outputs(network, step)
        if self.config.loss.combine == "weights" or not self.weights:
            return outputs
        audio = self.replaced(outputs.audio_features, self.weights["good_audio"][step.index], step)
        visual = self.replaced(outputs.visual_features, self.weights["good_visual"][step.index], step)
        return replace(outputs, fused=network.fuse(audio, visual))

    def replaced(self, features: Tensor, good: Tensor, step: Step) -> Tensor:
        """good * features + (1 - good) * mean, (B, features); the mean of the whole batch, weighted by good (B,)."""
        share = self.batch_mean(good, step).clamp(min=1e-6)
        mean = self.batch_mean((good[:, None] * features.detach().float()).T, step) / share
        return (good[:, None] * features + (1 - good[:, None]) * mean).to(features.dtype)

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The weighted losses of the batch."""
        loss = self.config.loss
        audio, visual = self.cross_entropy(outputs.audio, labels), self.cross_entropy(outputs.visual, labels)
        align = alignment(outputs, labels, self.config.align.kind)
        fused = self.cross_entropy(outputs.fused, labels)
        return {
            "fusion": loss.fusion_weight
            * (fused.mean() if loss.combine == "replace" else self.weighted("fusion", fused, index)),
            "audio": loss.unimodal_weight * self.weighted("audio", audio, index, "audio"),
            "visual": loss.unimodal_weight * self.weighted("visual", visual, index, "visual"),
            "align": loss.align_weight * self.weighted("align", align, index),
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds what the next fit starts from."""
        return {**super().state_dict(), "separator": self.separator_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.separator_state = state["separator"]
