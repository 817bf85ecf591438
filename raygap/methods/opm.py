"""opm: on-the-fly prediction modulation, features of the modality that is ahead are dropped at random.

Wei, Hu, Du, Wen: On-the-fly Modulation for Balanced Multimodal Learning, TPAMI 2024.

With s_m the batch's summed true-class scores through the read-out of m and rho_m = s_m / s_other: in a share
`opm.executed` of the steps, a clip's whole feature vector of modality m is dropped with probability
q_m = q_base * (1 + strength * tanh(rho_m - 1)) where rho_m > 1, else 0. What is kept is divided by 1 - theta, theta the
mean of q_audio and q_visual (both feature vectors are equally long). The fused loss alone is trained.

The defaults are those of its code. q is held below 1. The scores and the ledger's read-outs are those of the features
before anything is dropped. Whether a clip is dropped follows from a number of its own, drawn once an epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs
from raygap.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step
    from raygap.models.network import Network


class Settings(Section):
    """What is set of opm."""

    q_base: float = Field(0.5, ge=0, lt=1, json_schema_extra=LATER | acts_when({"opm.executed": ">0"}))
    """Chance that a clip's feature of the modality ahead is dropped, before its lead is added."""
    strength: float = Field(
        0.5, ge=0, le=10, json_schema_extra=LATER | acts_when({"opm.executed": ">0", "opm.q_base": ">0"})
    )
    """How much the lead adds: q_base * strength * tanh(ratio of the scores - 1)."""
    executed: float = Field(0.7, ge=0, le=1, json_schema_extra=LATER | acts_when({"opm.q_base": ">0"}))
    """Share of the steps in which features are dropped."""


class Opm(Joint):
    """CE(fused) of features of which the dominant modality's are missing now and then."""

    sections = {"opm": Settings}
    droppable = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.numbers, self.numbers_of = torch.empty(0), -1

    def outputs(self, network: Network, step: Step) -> Outputs:
        """The read-outs of whole features, and the fused logits of what was not dropped."""
        whole = super().outputs(network, step)
        chance = self.drop_chance(whole, step)
        self.note("opm_dropped_audio", chance[0])
        self.note("opm_dropped_visual", chance[1])
        seed = self.config.seed
        if generator(seed, "opm step", step.epoch, step.number).random() >= self.config.opm.executed:
            return whole
        if self.numbers_of != step.epoch:  # drawn once: no step waits for the device
            numbers = generator(seed, "opm clip", step.epoch).random(len(self.labels))
            self.numbers = torch.as_tensor(numbers, dtype=torch.float32, device=self.device)
            self.numbers_of = step.epoch
        kept = self.numbers[step.index] >= chance[:, None]
        scale = 1 / (1 - chance.mean())
        audio = whole.audio_features * (kept[0] * scale)[:, None].to(whole.audio_features.dtype)
        visual = whole.visual_features * (kept[1] * scale)[:, None].to(whole.visual_features.dtype)
        fused = network.fusion(audio, visual)
        return Outputs(fused, whole.audio, whole.visual, whole.audio_features, whole.visual_features)

    def drop_chance(self, outputs: Outputs, step: Step) -> Tensor:
        """q of audio and visual, (2,), from the scores of the whole batch."""
        settings = self.config.opm
        scores = [true_class_score(logits, step.labels) for logits in (outputs.audio, outputs.visual)]
        sums = self.batch_mean(torch.stack(scores), step)
        ahead = sums / sums.flip(0).clamp_min(1e-12) - 1
        chance = settings.q_base * (1 + settings.strength * torch.tanh(ahead))
        return torch.where(ahead > 0, chance.clamp_max(0.99), 0.0)
