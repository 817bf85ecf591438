"""lfm: at first the features of the modalities learn from each other, later more and more from the labels.

Yang, Wan, Jiang, Xu: Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024.

L = a * (CE(fused) + CE(audio) + CE(visual)) + (1 - a) * contrast

contrast: both modalities' features, scaled to length 1; a clip's sound must pick its own picture among those of the
batch and the other way round, the mean of both cross-entropies over the similarities divided by `temperature`.

The paper learns a on held-out clips, by a bilevel optimisation whose step in the code is the mean of one tensor's
entries of a product with the Hessian. The authors' code also has the a that came out, as a polynomial of the epoch with
the remark that it was fitted: from 0.2 over a half, midway, to the end of its range, 0.95. That is what we take, over
the adaptive stage instead of their 200 epochs. The paper's simpler, heuristic integration is not here: its schedule
is in nothing that we found. The code has variants: this one, and an older one that aligns predictions in place of
features. Its CE(fused) is of the mean of two heads' logits; ours, with model.fusion=sum as in our space, of their sum,
which is as sharp at half the weights. Other fusions work too. With several workers each contrasts its own part of a
batch, as batch normalisation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.losses import cross_entropy
from raygap.methods.unimodal_losses import UnimodalLosses

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Terms
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of lfm."""

    temperature: float = Field(0.07, gt=0, le=10, json_schema_extra=LATER)
    """Of the contrast between the features of both modalities."""


LEARNED = (-5.39717505e-11, 2.23835486e-08, -2.92947416e-06, 1.22989557e-04, 3.35472727e-03, 2.04623704e-01)
"""a by the epoch, as np.polyval takes it."""
LENGTH, RANGE = 200, (0.05, 0.95)
"""Epochs of the authors' training, and where their code keeps a."""


class Lfm(UnimodalLosses):
    """Classification and contrast, whose shares follow the epoch."""

    sections = {"lfm": Settings}

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The weighted losses of the batch."""
        share = self.share(self.epoch)
        contrasted = contrast(outputs.audio_features, outputs.visual_features, self.config.lfm.temperature)
        return {
            "fusion": share * cross_entropy(outputs.fused, labels).mean(),
            "audio": share * self.weighted("audio", cross_entropy(outputs.audio, labels), index, "audio"),
            "visual": share * self.weighted("visual", cross_entropy(outputs.visual, labels), index, "visual"),
            "contrast": (1 - share) * contrasted,
        }

    def share(self, epoch: int) -> float:
        """a of an adaptive epoch."""
        config = self.config
        length = config.epochs - config.warmup.epochs - config.purify.epochs
        return float(np.clip(np.polyval(LEARNED, LENGTH * (epoch - config.warmup.epochs) / length), *RANGE))

    def end_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Adds a."""
        super().end_epoch(epoch, metrics)
        metrics["lfm_classification_share"] = self.share(epoch)


def contrast(audio: Tensor, visual: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of two (B, features); a scalar, in float32."""
    similar = (
        torch.nn.functional.normalize(audio.float()) @ torch.nn.functional.normalize(visual.float()).T / temperature
    )
    own = torch.arange(len(similar), device=similar.device)
    return (torch.nn.functional.cross_entropy(similar, own) + torch.nn.functional.cross_entropy(similar.T, own)) / 2
