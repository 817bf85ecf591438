"""audio_only: the sound trained alone, a bound that every joint training is measured against.

The fusion is replaced by a linear layer over its features, and CE(fused) trains it and the encoder. Of the other
modality nothing is learnt but, with readout=heads, a probe on its untrained encoder; with split its logits are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raygap.methods.joint import Joint

if TYPE_CHECKING:
    from raygap.config import TrialConfig
    from raygap.models.network import Network


class AudioOnly(Joint):
    """Audio alone."""

    droppable = False
    mixes = True

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """Nothing of the picture reaches the answer."""
        from raygap.models.heads import OneModality

        network.fusion = OneModality(network.sizes["audio"], network.classes, 0)
