"""lfm: at first both modalities learn to agree, later more and more from the labels.

Yang, Wan, Jiang, Xu: Facilitating Multimodal Classification via Dynamically Learning Modality Gap, NeurIPS 2024.

A linear head a modality; the answer is the mean of their logits. The authors' code has had two variants, both of which
are here; neither has losses of the modalities alone.

predictions, the newest: L = 2 (a CE(mean of the logits) + (1 - a) gap). With p and q the softmax probabilities of both
modalities and m their mean, gap = (KL(m || p) + KL(m || q)) / 2. (The code calls this the Jensen-Shannon divergence,
which has the arguments the other way round.) a follows the polynomial of the epoch that the authors fitted to what
their learned schedule gave, from 0.2 over a half, midway, to 1, over the adaptive stage instead of their 200 epochs;
where it would exceed 1, by a hundredth, it is held at 1.

features, the older: L = (1 - c) CE(mean of the logits) + c contrast, with c = exp(-0.3 epoch), kept in 0.05..0.95. Both
modalities' features, scaled to length 1, are contrasted: a clip's sound must pick its own picture among those of the
batch and the other way round, the mean of both cross-entropies over the similarities divided by `temperature`. It was
for 20 epochs from a pretrained network on. With several workers each contrasts its own part of a batch, as batch
normalisation does.

The paper also learns a on held-out clips, by a bilevel optimisation; that is not here. Its heads take the fusion's
place; model.fusion has none in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.errors import UserError
from raygap.lazy import torch
from raygap.methods.joint import Joint

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of lfm."""

    variant: Literal["predictions", "features"] = Field("predictions", json_schema_extra=LATER)
    """What is to agree: the predictions of both modalities (the authors' newest code), or their features (older)."""
    temperature: float = Field(0.07, gt=0, le=10, json_schema_extra=LATER | acts_when({"lfm.variant": "features"}))
    """features: of the contrast between the features of both modalities."""


LEARNED = (-5.39717505e-11, 2.23835486e-08, -2.92947416e-06, 1.22989557e-04, 3.35472727e-03, 2.04623704e-01)
"""a by the epoch, as np.polyval takes it."""
LENGTH = 200
"""Epochs of the authors' training."""


class Lfm(Joint):
    """Classification and agreement, whose shares follow the epoch."""

    sections = {"lfm": Settings}

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Both modalities are read out through their heads."""
        super().check(config)
        if config.model.readout != "split":
            raise UserError(f"{config.method} has a head a modality in place of the fusion; set model.readout=split")

    @classmethod
    def equal_features(cls, config: TrialConfig) -> bool:
        """The older variant contrasts them."""
        return config.lfm.variant == "features"

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """The fusion is the mean of two heads."""
        from raygap.models.heads import MeanOfHeads

        network.fusion = MeanOfHeads(network.sizes["audio"], network.sizes["visual"], network.classes)

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The weighted losses of the batch."""
        share = self.share(self.epoch)
        fusion = self.cross_entropy(outputs.fused, labels).mean()
        if self.config.lfm.variant == "predictions":
            return {"fusion": 2 * share * fusion, "gap": 2 * (1 - share) * gap(outputs.audio, outputs.visual).mean()}
        contrasted = contrast(outputs.audio_features, outputs.visual_features, self.config.lfm.temperature)
        return {"fusion": share * fusion, "contrast": (1 - share) * contrasted}

    def share(self, epoch: int) -> float:
        """Of classification in the loss of an adaptive epoch: a, or 1 - c."""
        config, place = self.config, epoch - self.config.warmup.epochs
        if config.lfm.variant == "features":
            return 1 - min(max(math.exp(-0.3 * place), 0.05), 0.95)
        length = config.epochs - config.warmup.epochs - config.purify.epochs
        return min(float(np.polyval(LEARNED, LENGTH * place / length)), 1.0)

    def end_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Adds the share."""
        super().end_epoch(epoch, metrics)
        metrics["lfm_classification_share"] = self.share(epoch)


def gap(audio: Tensor, visual: Tensor) -> Tensor:
    """(KL(m || p) + KL(m || q)) / 2 of the softmax of two (B, C), m their mean; (B,), in float32."""
    logs = torch.stack((audio, visual)).float().log_softmax(2)
    mean = logs.exp().mean(0)
    return (torch.special.xlogy(mean, mean) - mean * logs.mean(0)).sum(1)


def contrast(audio: Tensor, visual: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of two (B, features); a scalar, in float32."""
    similar = (
        torch.nn.functional.normalize(audio.float()) @ torch.nn.functional.normalize(visual.float()).T / temperature
    )
    own = torch.arange(len(similar), device=similar.device)
    return (torch.nn.functional.cross_entropy(similar, own) + torch.nn.functional.cross_entropy(similar.T, own)) / 2
