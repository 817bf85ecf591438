"""pmr: the slower modality is drawn to the prototypes of its classes, the faster one is kept from settling early.

Fan, Xu, Wang, Wang, Guo: PMR: Prototypical Modal Rebalance for Multimodal Learning, CVPR 2023.

A class's prototype c_m is the mean of its features z_m; p_m = softmax over the classes of -|z_m - c_m|; rho is the
batch's summed p_audio of the true classes over the same of p_visual. With the cross-entropies L_m of p_m,

L = CE(fused) + alpha * (min(1, max(0, 1 / rho - 1)) L_audio + min(1, max(0, rho - 1)) L_visual)
    - entropy_weight * (min(1, max(0, rho - 1)) H(p_audio) + min(1, max(0, 1 / rho - 1)) H(p_visual)),

the last line (H the entropy, for the modality that is ahead) in the first `entropy_epochs` alone. Prototypes are new
each epoch: (1 - momentum) * mean of the features of a share of the training clips + momentum * last prototype.

alpha, momentum and the share are those of its code, whose rebalancing weights are 0 or 1, though: ours are the paper's.
Where the paper is silent: prototypes come from a random share of each class's clips (one at least), without
augmentation, before each epoch; epochs of the entropy are BalanceBenchmark's, and so is its weight, 0.01 of a sum over
the batch: ours is a mean, so that the weight means the same for any batch size, and of 64 clips it is 0.64. A class
without training clips has no prototype. Any fusion will do; separate heads are probes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs
from raygap.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Look, Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of pmr."""

    alpha: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the slower modality's prototype loss."""
    momentum: float = Field(0.2, ge=0, lt=1, json_schema_extra=LATER)
    """Share of the last epoch's prototypes in the new ones."""
    share: float = Field(0.1, gt=0, le=1, json_schema_extra=LATER)
    """Share of each class's training clips, drawn anew each epoch, that its prototype is the mean of."""
    entropy_weight: float = Field(0.64, ge=0, le=100, json_schema_extra=LATER | acts_when({"pmr.entropy_epochs": ">0"}))
    """Weight of the faster modality's entropy regularisation."""
    entropy_epochs: int = Field(10, ge=0, le=10_000, json_schema_extra=LATER | acts_when({"pmr.entropy_weight": ">0"}))
    """First adaptive epochs, which alone have that regularisation."""


@dataclass
class PrototypeOutputs(Outputs):
    """What the prototypes say of a batch, and how much either modality is behind in the whole batch."""

    near_audio: Tensor
    """(B, classes): -|z - c|."""
    near_visual: Tensor
    behind: Tensor
    """(2,): of audio and visual, in [0, 1]; one of them is 0."""


class Pmr(Joint):
    """CE(fused) and the losses of prototype classifiers."""

    sections = {"pmr": Settings}
    prototypes: list[Tensor] | None = None
    """(classes, features) each: of audio and visual."""
    in_entropy_epochs = True

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Prototypes anew."""
        settings = self.config.pmr
        clips = class_share(self.labels, settings.share, generator(self.config.seed, "pmr", epoch))
        outputs = look(clips)
        fresh = [
            class_means(features, torch.from_numpy(self.labels[clips]), network.classes).to(self.device)
            for features in (outputs.audio_features, outputs.visual_features)
        ]
        last = fresh if self.prototypes is None else self.prototypes
        share = settings.momentum
        self.prototypes = [(1 - share) * new + share * old for new, old in zip(fresh, last, strict=True)]
        self.in_entropy_epochs = epoch - self.config.warmup.epochs < settings.entropy_epochs

    def outputs(self, network: Network, step: Step) -> PrototypeOutputs:
        """Adds the prototypes' logits."""
        outputs = super().outputs(network, step)
        near = [
            nearness(features, prototypes)
            for features, prototypes in zip(
                (outputs.audio_features, outputs.visual_features), self.prototypes, strict=True
            )
        ]
        scores = self.batch_mean(torch.stack([true_class_score(logits, step.labels) for logits in near]), step)
        behind = (scores.flip(0) / scores - 1).clamp(0, 1)
        self.note("pmr_behind_audio", behind[0])
        self.note("pmr_behind_visual", behind[1])
        return PrototypeOutputs(**vars(outputs), near_audio=near[0], near_visual=near[1], behind=behind)

    def adaptive_terms(self, outputs: PrototypeOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch."""
        settings = self.config.pmr
        behind_audio, behind_visual = outputs.behind
        terms = super().adaptive_terms(outputs, labels, index)
        terms["prototypes_audio"] = (
            settings.alpha * behind_audio * self.cross_entropy(outputs.near_audio, labels).mean()
        )
        terms["prototypes_visual"] = (
            settings.alpha * behind_visual * self.cross_entropy(outputs.near_visual, labels).mean()
        )
        if self.in_entropy_epochs:
            of_the_faster = behind_visual * entropy(outputs.near_audio) + behind_audio * entropy(outputs.near_visual)
            terms["entropy"] = -settings.entropy_weight * of_the_faster.mean()
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Adds the prototypes."""
        return {**super().state_dict(), "prototypes": self.prototypes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.prototypes = state["prototypes"]
        if self.prototypes is not None:  # None where no epoch is adaptive
            self.prototypes = [prototypes.to(self.device) for prototypes in self.prototypes]


def class_share(labels: np.ndarray, share: float, draw: np.random.Generator) -> np.ndarray:
    """Positions, ascending, of a random `share` of each class's clips, rounded up."""
    chosen = []
    for label in np.unique(labels):
        clips = np.flatnonzero(labels == label)
        chosen.append(draw.permutation(clips)[: math.ceil(share * len(clips))])
    return np.sort(np.concatenate(chosen))


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, F), (N,) -> (classes, F); infinitely far away where a class has no clip."""
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features.float())
    counts = torch.bincount(labels, minlength=classes)[:, None]
    return torch.where(counts > 0, sums / counts, math.inf)


def nearness(features: Tensor, prototypes: Tensor) -> Tensor:
    """-|z - c|, in float32: (B, F), (classes, F) -> (B, classes)."""
    known = prototypes.isfinite().all(1)
    distances = torch.cdist(features.float(), prototypes.where(known[:, None], 0.0))
    return (-distances).masked_fill(~known, -1e9)


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax: (B, C) -> (B,)."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)
