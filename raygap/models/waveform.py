"""Networks of torchaudio for sound as it is, of which the mean over time is taken."""

from dataclasses import dataclass

import torch.nn.functional as F
import torchaudio
from torch import Tensor

from raygap.models.base import Encoder

FOLDER = "/torchaudio/models/"
"""Of the weights, at the host that has torchvision's."""


@dataclass(frozen=True)
class Bundle:
    """What torchaudio's bundle of a network (torchaudio.pipelines) is made of; it says so under private names alone."""

    factory: str
    """The function of torchaudio.models that makes the network."""
    file: str
    """Its weights, in FOLDER."""
    normalised: bool
    """Whether it was trained on sound with mean 0 and deviation 1 of each clip."""


BUNDLES = {
    "wav2vec2_base": Bundle("wav2vec2_base", "wav2vec2_fairseq_base_ls960.pth", False),
    "wav2vec2_large": Bundle("wav2vec2_large", "wav2vec2_fairseq_large_ls960.pth", False),
    "wav2vec2_large_lv60k": Bundle("wav2vec2_large_lv60k", "wav2vec2_fairseq_large_lv60k.pth", True),
    "wav2vec2_xlsr53": Bundle("wav2vec2_large_lv60k", "wav2vec2_fairseq_large_xlsr53.pth", True),
    "wav2vec2_xlsr_300m": Bundle("wav2vec2_xlsr_300m", "wav2vec2_xlsr_300m.pth", True),
    "wav2vec2_xlsr_1b": Bundle("wav2vec2_xlsr_1b", "wav2vec2_xlsr_1b.pth", True),
    "wav2vec2_xlsr_2b": Bundle("wav2vec2_xlsr_2b", "wav2vec2_xlsr_2b.pth", True),
    "hubert_base": Bundle("hubert_base", "hubert_fairseq_base_ls960.pth", False),
    "hubert_large": Bundle("hubert_large", "hubert_fairseq_large_ll60k.pth", True),
    "hubert_xlarge": Bundle("hubert_xlarge", "hubert_fairseq_xlarge_ll60k.pth", True),
    "wavlm_base": Bundle("wavlm_base", "wavlm_base.pth", False),
    "wavlm_base_plus": Bundle("wavlm_base", "wavlm_base_plus.pth", False),
    "wavlm_large": Bundle("wavlm_large", "wavlm_large.pth", True),
}


class Waveform(Encoder):
    """wav2vec 2.0, HuBERT or WavLM, without a head.

    No layer is left out at random (layer drop): workers would leave out different ones.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        bundle = BUNDLES[name]
        self.net = getattr(torchaudio.models, bundle.factory)(encoder_layer_drop=0.0)
        self.out_features = self.net.encoder.feature_projection.projection.out_features
        self.normalised = bundle.normalised

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 1, samples) -> (B, out_features)."""
        sound = x[:, 0, 0]
        if self.normalised:  # each clip alone: torchaudio does it over a whole batch, which was one clip in training
            sound = F.layer_norm(sound, sound.shape[1:])
        return self.net(sound)[0].mean(1)
