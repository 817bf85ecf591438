"""Per-clip loss terms, each (B,), in float32, and the settings of their weights that several methods have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raygap.config import LATER, Section, acts_when
from raygap.imbalance.gap import modality_gap, true_class_score
from raygap.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.models.outputs import Outputs


class Loss(Section):
    """Weights of the adaptive stage's loss."""

    fusion_weight: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the fused cross-entropy."""
    unimodal_weight: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the sum of both unimodal cross-entropies."""

    @model_validator(mode="after")
    def _labels_count(self) -> Self:
        if not (self.fusion_weight or self.unimodal_weight):
            raise ValueError(
                "loss.fusion_weight and loss.unimodal_weight are both 0: nothing learns from the labels; raise one"
            )
        return self


class GuidedLoss(Loss):
    """The same of a method that is guided by a mixture."""

    align_weight: float = Field(0.5, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the alignment term."""
    focus: float = Field(3.0, ge=0, le=100, json_schema_extra=LATER | acts_when({"mixture.posterior": "!=constant"}))
    """How much more a balanced clip weighs than an imbalanced one: weights 1 + focus * P(balanced)."""


ALIGNING = {"loss.align_weight": ">0"}


class Align(Section):
    """The alignment term."""

    kind: Literal["kl", "gap_weak", "gap_both"] = Field("kl", json_schema_extra=LATER | acts_when(ALIGNING))
    """KL from the stronger modality to the weaker; |stronger - weaker| moving only the weaker; |gap| moving both."""


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """(B, C), (B,) -> (B,). `smoothing`, in [0, 1), is the share of a label that goes to all C classes alike (Szegedy
    et al., CVPR 2016). Methods call Method.cross_entropy, which does what is configured; this measures.
    """
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


def class_weights(labels: np.ndarray, power: float) -> np.ndarray:
    """Factor of each class, float32 (classes,), in proportion to clips^-power, of mean 1 over clips with labels (N,).

    That of a class without clips, which no label asks for, is 0.
    """
    counts = np.bincount(labels)
    weights = np.zeros(len(counts))
    weights[counts > 0] = counts[counts > 0] ** -float(power)
    return (weights / weights[labels].mean()).astype(np.float32)


def alignment(outputs: Outputs, labels: Tensor, kind: str) -> Tensor:
    """What alignment costs each clip, (B,). The stronger modality is the one with the higher true-class score.

    kl: KL(stopgrad p_strong || p_weak) over the classes; gap_weak: |stopgrad s_strong - s_weak| of the true-class
    scores; both move the weaker modality alone. gap_both: |s_audio - s_visual|, which may also shrink the gap by
    spoiling the stronger one.
    """
    audio, visual = true_class_score(outputs.audio, labels), true_class_score(outputs.visual, labels)
    if kind == "gap_both":
        return modality_gap(audio, visual).abs()
    audio_is_stronger = (audio >= visual).detach()
    if kind == "gap_weak":
        strong = torch.where(audio_is_stronger, audio, visual).detach()
        return strong - torch.where(audio_is_stronger, visual, audio)
    log_audio, log_visual = outputs.audio.float().log_softmax(1), outputs.visual.float().log_softmax(1)
    strong = torch.where(audio_is_stronger[:, None], log_audio, log_visual).detach()
    weak = torch.where(audio_is_stronger[:, None], log_visual, log_audio)
    return (strong.exp() * (strong - weak)).sum(1)


def excess_gap(outputs: Outputs, labels: Tensor, balanced_mean: Tensor) -> Tensor:
    """relu(|gap| - balanced_mean), (B,): how far a clip lies outside the balanced component; moves both modalities."""
    gap = modality_gap(true_class_score(outputs.audio, labels), true_class_score(outputs.visual, labels))
    return torch.nn.functional.relu(gap.abs() - balanced_mean)
