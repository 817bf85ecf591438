"""Sound as a picture: log-mel bands, or the log-magnitude short-time Fourier transform."""

import numpy as np

from raygap.config import Prepare

# Keeps the logarithm of silence finite; the value of the published recipes.
FLOOR = 1e-7


def spectrogram_shape(settings: Prepare) -> tuple[int, int]:
    """(bins, steps) of every spectrogram made with these settings."""
    bins = settings.n_mels if settings.spectrogram == "mel" else settings.n_fft // 2 + 1
    return bins, _samples(settings) // settings.hop_length + 1


def _samples(settings: Prepare) -> int:
    return round(settings.seconds * settings.sample_rate)


class Spectrogram:
    """Turns a waveform into its spectrogram; the same waveform always gives the same one."""

    def __init__(self, settings: Prepare) -> None:
        # Here, not above: the process that hands out the work needs only the shape, and torch takes seconds to load.
        import torch
        from torchaudio.transforms import MelSpectrogram
        from torchaudio.transforms import Spectrogram as Stft

        self._samples = _samples(settings)
        self._from_numpy = torch.from_numpy
        # Padding with silence, not with the mirrored sound, works for sounds shorter than a window.
        window = {"n_fft": settings.n_fft, "hop_length": settings.hop_length, "pad_mode": "constant"}
        if settings.spectrogram == "mel":
            self._transform = MelSpectrogram(settings.sample_rate, n_mels=settings.n_mels, **window)
        else:
            self._transform = Stft(power=1, **window)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float32 (n,) at the settings' sample rate -> float16 (bins, steps), natural logarithm.

        mel: of the energy a band; stft: of the magnitude. Silence fills what is missing of the settings' seconds;
        what is longer is cut off.
        """
        padded = np.zeros(self._samples, np.float32)
        kept = waveform[: self._samples]
        padded[: len(kept)] = kept
        return (self._transform(self._from_numpy(padded)) + FLOOR).log().half().numpy()
