"""remix: each clip trains the modality that is less sure of it, and batches hold clips of one modality.

Ma, Chen, Deng: Improving Multimodal Learning Balance and Sufficiency through Data Remixing, ICML 2025.

Before each epoch, of every training clip and from the unimodal predictions, KL(prediction || uniform) says how sure a
modality is; the clip goes to the modality with the smaller one (to the picture where they are equal). The features of
the other modality are zero, and L = CE(fused) + gamma * CE(the modality that trains). The picture's clips come first,
then those of the sound, so that but for one batch all clips of a batch train the same modality.

Before that the authors train 10 of 60 epochs with CE(fused) + (CE(audio) + CE(visual)) / 2: our warm-up, with
warmup.unimodal_weight=0.5. Their unimodal losses go through separate heads (readout=heads); the split read-out works
too. Unlike theirs a batch is filled up with clips of the sound where the picture's end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.base import Method
from raygap.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Look, Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of remix."""

    gamma: float = Field(1.0, ge=0, le=100, json_schema_extra=LATER)
    """Weight of the loss of the modality that a clip trains."""


class Remix(Method):
    """The fused loss of one modality a clip, and that modality's own."""

    sections = {"remix": Settings}
    droppable = False

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Which modality each clip trains."""
        outputs = look()
        # A rounding on another machine could turn an answer.
        found = self.workers.broadcast((sureness(outputs.audio) < sureness(outputs.visual)).numpy())
        self.hears = found
        """Of each clip, whether it trains the sound."""
        self.hears_here = torch.from_numpy(found).to(self.device)
        self.note("remix_audio_share", torch.tensor(float(found.mean())))

    def draw(self, clips: np.ndarray, epoch: int) -> np.ndarray:
        """The picture's clips, then those of the sound."""
        return np.concatenate((clips[~self.hears[clips]], clips[self.hears[clips]]))

    def outputs(self, network: Network, step: Step) -> Outputs:
        """The read-outs of whole features, and the fused logits of the modality that a clip trains."""
        whole = super().outputs(network, step)
        audio, visual, heard = whole.audio_features, whole.visual_features, self.hears_here[step.index][:, None]
        fused = network.fusion(audio * heard, visual * ~heard)
        return Outputs(fused, whole.audio, whole.visual, audio, visual)

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch."""
        gamma, heard = self.config.remix.gamma, self.hears_here[index]
        return {
            "fusion": self.cross_entropy(outputs.fused, labels).mean(),
            "audio": gamma * (heard * self.cross_entropy(outputs.audio, labels)).mean(),
            "visual": gamma * (~heard * self.cross_entropy(outputs.visual, labels)).mean(),
        }


def sureness(logits: Tensor) -> Tensor:
    """KL of the softmax to the uniform distribution, but for a constant: (B, C) -> (B,)."""
    logs = logits.float().log_softmax(1)
    return (logs.exp() * logs).sum(1)
