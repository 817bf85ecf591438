"""What a network says of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # see raygap/lazy.py
    from torch import Tensor


@dataclass
class Outputs:
    """Logits of a batch, each (B, classes), and the features they came from, each (B, features)."""

    fused: Tensor
    audio: Tensor
    visual: Tensor
    audio_features: Tensor
    visual_features: Tensor
