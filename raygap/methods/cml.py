"""cml: a modality alone may not be surer than both together.

Ma, Zhang, Zhang, Wu, Fu, Zhou, Hu: Calibrating Multimodal Learning, ICML 2023.

Confidence is the highest softmax probability. For a subset S of the modalities of a set T the paper penalises
max(0, confidence(S) - confidence(T)), added to the losses of the predictions. With two modalities S is each one alone,
read out through its unimodal logits, and T both. L = CE(fused) + loss.unimodal_weight * (CE(audio) + CE(visual))
+ cml.weight * mean over the clips of the sum of both penalties.

The paper tunes the weight; 0.1 is ours. It leaves open whether the larger set's confidence may be pushed up: it may,
the gradient reaches both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.unimodal_losses import UnimodalLosses

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Terms
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of cml."""

    weight: float = Field(0.1, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the penalty on a modality that is surer than both together."""


def confidence(logits: Tensor) -> Tensor:
    """(B, C) -> (B,), in float32."""
    return torch.softmax(logits, 1, dtype=torch.float32).amax(1)


class Cml(UnimodalLosses):
    """The fused and both unimodal losses, and the penalty."""

    sections = UnimodalLosses.sections | {"cml": Settings}

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """Adds the term `calibration`."""
        both = confidence(outputs.fused)
        audio, visual = ((confidence(alone) - both).relu() for alone in (outputs.audio, outputs.visual))
        terms = super().adaptive_terms(outputs, labels, index)
        return terms | {"calibration": self.config.cml.weight * (audio + visual).mean()}
