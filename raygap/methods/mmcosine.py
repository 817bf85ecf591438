"""mmcosine: features and class weights are normalised a modality, so that neither can outgrow the other.

Xu, Feng, Zhang, Hu: MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning, ICASSP 2023.

The fused logits are s (cos(z_a, W_a) + cos(z_v, W_v)) a class, without bias, and CE(fused) is the loss; each summand is
the modality's own logit. The paper's code has s = 10. Both fusion=concat and sum become this; the read-out is split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from raygap.config import Section
from raygap.errors import UserError
from raygap.methods.joint import Joint

if TYPE_CHECKING:
    from raygap.config import TrialConfig
    from raygap.models.network import Network


class Settings(Section):
    """What is set of mmcosine."""

    scale: float = Field(10.0, gt=0, le=1000)
    """Factor on the cosines of features and class weights."""


class MMCosine(Joint):
    """CE(fused) through cosines."""

    sections = {"mmcosine": Settings}
    mixes = True

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """The cosines are of a linear head, and are the read-out."""
        super().check(config)
        if config.model.fusion not in ("concat", "sum") or config.model.readout != "split":
            raise UserError(
                f"{config.method} needs model.fusion concat or sum and model.readout=split, "
                f"not {config.model.fusion} and {config.model.readout}"
            )

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """The fusion is one of cosines."""
        from raygap.models.heads import CosineFusion

        network.fusion = CosineFusion(
            network.sizes["audio"], network.sizes["visual"], network.classes, config.mmcosine.scale
        )
