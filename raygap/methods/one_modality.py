"""audio_only and visual_only: a modality trained alone, the bound that every joint training is measured against.

The fusion is replaced by a linear layer over that modality's features, and CE(fused) trains it and the encoder. Of the
other modality nothing is learnt but, with readout=heads, a probe on its untrained encoder; with split its logits are 0.
"""

import torch
from torch import Tensor, nn

from raygap.config import TrialConfig
from raygap.methods.joint import Joint
from raygap.models.network import Network, draw_linear_weights


class OneModality(nn.Module):
    """A fusion that hears one modality: the first (audio) or the second (visual)."""

    def __init__(self, features: int, classes: int, place: int) -> None:
        super().__init__()
        self.place = place
        self.head = nn.Linear(features, classes)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        return self.head((audio, visual)[self.place])

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Its own logits, and zeros for the other modality."""
        heard = self(audio, visual)
        silent = torch.zeros_like(heard)
        return (heard, silent) if self.place == 0 else (silent, heard)


class AudioOnly(Joint):
    """Audio alone."""

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """Nothing of the picture reaches the answer."""
        network.fusion = OneModality(network.features, network.classes, 0)


class VisualOnly(Joint):
    """The picture alone."""

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """Nothing of the sound reaches the answer."""
        network.fusion = OneModality(network.features, network.classes, 1)
