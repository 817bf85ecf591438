"""mmcosine: features and class weights are normalised a modality, so that neither can outgrow the other.

Xu, Feng, Zhang, Hu: MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning, ICASSP 2023.

The fused logits are s (cos(z_a, W_a) + cos(z_v, W_v)) a class, without bias, and CE(fused) is the loss; each summand is
the modality's own logit. The paper's code has s = 10. Both fusion=concat and sum become this; the read-out is split.
"""

from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from raygap.config import TrialConfig
from raygap.errors import UserError
from raygap.methods.joint import Joint
from raygap.models.network import Network, draw_linear_weights


class CosineFusion(nn.Module):
    """Sum over the modalities of `scale` times the cosines between features and class weights."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.audio = nn.Linear(features, classes, bias=False)
        self.visual = nn.Linear(features, classes, bias=False)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        u_audio, u_visual = self.split(audio, visual)
        return u_audio + u_visual

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The summands."""
        return self._cosines(audio, self.audio), self._cosines(visual, self.visual)

    def _cosines(self, features: Tensor, head: nn.Linear) -> Tensor:
        return self.scale * linear(normalize(features.float()), normalize(head.weight))


class MMCosine(Joint):
    """CE(fused) through cosines."""

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
        network.fusion = CosineFusion(network.features, network.classes, config.mmcosine.scale)
