"""Networks of torchaudio for sound as it is, of which the mean over time is taken."""

import torchaudio
from torch import Tensor

from raygap.models.base import Encoder


class Waveform(Encoder):
    """wav2vec 2.0, HuBERT or WavLM, without a head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = getattr(torchaudio.models, name)()
        self.out_features = self.net.encoder.feature_projection.projection.out_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 1, samples) -> (B, out_features)."""
        return self.net(x[:, 0, 0])[0].mean(1)
