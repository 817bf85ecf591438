"""cml: a modality alone may not be surer than both together.

Ma, Zhang, Zhang, Wu, Fu, Zhou, Hu: Calibrating Multimodal Learning, ICML 2023.

Confidence is the highest softmax probability. For a subset S of the modalities of a set T the paper penalises
max(0, confidence(S) - confidence(T)), added to the losses of the predictions. With two modalities S is each one alone,
read out through its unimodal logits, and T both. L = CE(fused) + loss.unimodal_weight * (CE(audio) + CE(visual))
+ cml.weight * mean over the clips of the sum of both penalties.

As in its code, a penalty counts only where T is right, and then moves both sides, or where both S and T are wrong, and
then does not move T; where S alone is right nothing is penalised. The code sums over its batches, at weights from 0.1
to 0.75; ours is a mean, so that the weight means the same for any batch size: of 64 clips it is 6.4 to 48. The code is
of its experiments with features of six views, drops them in turn at random, and penalises each set against the last;
its cross-entropies are the mean over the sets where ours are the sum, so that its penalties weigh more yet.
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

    weight: float = Field(6.4, ge=0, le=1000, json_schema_extra=LATER)
    """Weight of the mean penalty on a modality that is surer than both together."""


class Cml(UnimodalLosses):
    """The fused and both unimodal losses, and the penalty."""

    sections = UnimodalLosses.sections | {"cml": Settings}

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """Adds the term `calibration`."""
        audio, visual = (penalty(alone, outputs.fused, labels) for alone in (outputs.audio, outputs.visual))
        terms = super().adaptive_terms(outputs, labels, index)
        return terms | {"calibration": self.config.cml.weight * (audio + visual).mean()}


def penalty(alone: Tensor, fused: Tensor, labels: Tensor) -> Tensor:
    """How much surer a modality is than both, where that counts: (B, C) twice and (B,) -> (B,), in float32."""
    sure_alone, answer_alone = torch.softmax(alone, 1, dtype=torch.float32).max(1)
    sure, answer = torch.softmax(fused, 1, dtype=torch.float32).max(1)
    right = answer == labels
    wrong = ~right & (answer_alone != labels)
    bound = torch.where(right, sure, sure.detach())
    return (right | wrong) * (sure_alone - bound).relu()
