"""Sound as a picture: spectrograms of four kinds, as published recipes make them."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from raygap.config import Prepare
from raygap.data.media.files import BadClip
from raygap.errors import first_line

# Keeps the logarithm of silence finite; the value of the published recipes.
FLOOR = 1e-7


def spectrogram_shape(settings: Prepare) -> tuple[int, int]:
    """(bins, steps) of every spectrogram made with these settings."""
    samples = _samples(settings)
    if settings.spectrogram == "waveform":
        return 1, samples
    if settings.spectrogram == "mel":
        return settings.n_mels, samples // settings.hop_length + 1
    if settings.spectrogram == "stft":
        return settings.n_fft // 2 + 1, samples // settings.hop_length + 1
    if settings.spectrogram == "psd":  # only windows that lie whole inside the sound
        return settings.n_fft // 2 + 1, (samples - settings.n_fft) // settings.hop_length + 1
    return settings.n_mels, samples // settings.hop_length


def read_spectrogram(path: Path, settings: Prepare) -> np.ndarray:
    """A spectrogram that others have made, as it is: float16, of the shape that the settings give (bins, steps).

    It may lie on its side, (steps, bins). Of a pickle nothing but an array is read, of torch's files only weights are.
    Raises BadClip: unreadable, another shape, or a number that is not finite.
    """
    wanted = spectrogram_shape(settings)
    found = np.squeeze(_read_array(path))
    if found.dtype.kind not in "fiu":
        raise BadClip(f"spectrogram of {found.dtype}, not of numbers")
    if found.shape != wanted and found.shape[::-1] == wanted:
        found = found.T
    if found.shape != wanted:
        raise BadClip(
            f"spectrogram of {' x '.join(map(str, found.shape))}, and prepare.* makes {wanted[0]} x {wanted[1]}: set "
            "prepare.recipe, or spectrogram, n_fft or n_mels, hop_length and seconds, so that they agree"
        )
    with np.errstate(over="ignore"):
        numbers = found.astype(np.float16)
    if not np.isfinite(numbers).all():
        raise BadClip("spectrogram with a number that is not finite, or beyond 65,504")
    return numbers


_HARMLESS = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What a pickle of an array names, in NumPy 1 and 2. A pickle may call what it names: so nothing else is found."""


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _read_array(path: Path) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            found = np.load(path, allow_pickle=False)
        elif path.suffix.lower() == ".pkl":
            found = _Arrays(io.BytesIO(path.read_bytes())).load()
        else:
            import torch

            found = torch.load(path, map_location="cpu", weights_only=True)
            found = found.numpy() if isinstance(found, torch.Tensor) else found
    except OSError:
        raise
    except Exception as error:  # a file may hold anything
        hint = "; convert it: numpy.save(new, numpy.asarray(old))" if path.suffix.lower() != ".npy" else ""
        raise BadClip(f"no array alone: {first_line(error)}{hint}") from None
    if not isinstance(found, np.ndarray):
        raise BadClip(f"no array, but {type(found).__name__}: save the spectrogram alone with numpy.save")
    return found


def longest_sound(settings: Prepare) -> int:
    """Samples of a sound that its spectrogram follows from; what comes later is cut off."""
    # The last of Kaldi's windows begins before the end and reaches beyond it.
    beyond = settings.n_fft - settings.hop_length if settings.spectrogram == "fbank" else 0
    return _samples(settings) + beyond


def _samples(settings: Prepare) -> int:
    return round(settings.seconds * settings.sample_rate)


class Spectrogram:
    """Turns a waveform into its spectrogram; the same waveform always gives the same one."""

    def __init__(self, settings: Prepare) -> None:
        # Here, not above: the process that hands out the work needs only the shape, and torch takes seconds to load.
        import torch

        self._settings, self._shape = settings, spectrogram_shape(settings)
        self._samples, self._longest = _samples(settings), longest_sound(settings)
        self._torch = torch
        kind = settings.spectrogram
        self._picture = {
            "mel": self._fourier,
            "stft": self._fourier,
            "psd": self._density,
            "fbank": self._fbank,
            "waveform": lambda waveform: self._padded(waveform)[None],
        }[kind]
        # Padding with silence, not with the mirrored sound, works for sounds shorter than a window.
        window = {"n_fft": settings.n_fft, "hop_length": settings.hop_length, "pad_mode": "constant"}
        if kind == "mel":
            from torchaudio.transforms import MelSpectrogram

            self._transform = MelSpectrogram(settings.sample_rate, n_mels=settings.n_mels, **window)
        elif kind == "stft":
            from torchaudio.transforms import Spectrogram as Stft

            self._transform = Stft(power=1, **window)
        elif kind == "psd":
            from scipy.signal import get_window

            self._window = torch.from_numpy(get_window(("tukey", 0.25), settings.n_fft)).float()
            bins = torch.arange(self._shape[0])
            # Frequencies between the first and half the rate stand for their negatives too.
            sides = 2 - ((bins == 0) | (2 * bins == settings.n_fft)).float()
            self._scale = sides / (settings.sample_rate * self._window.square().sum())

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float32 (n,), n > 0, at the settings' sample rate -> float16 (bins, steps), natural logarithms.

        mel and fbank: of the energy a band; stft: of the magnitude; psd: of the power density, both of the sound
        limited to [-1, 1]; waveform: the sound itself, in one bin. Sound that is longer than the settings' seconds is
        cut off, shorter sound filled up. With sound_scaling clip the spectrogram has mean 0 and deviation 1.
        """
        if self._settings.fill == "repeat":
            waveform = np.tile(waveform, math.ceil(self._samples / len(waveform)))[: self._samples]
        if self._settings.spectrogram in ("stft", "psd"):  # as published; decoders and resampling overshoot
            waveform = np.clip(waveform, -1, 1)
        picture = self._picture(waveform[: self._longest])
        if self._settings.sound_scaling == "clip":
            picture = (picture - picture.mean()) / (picture.std() + 1e-9)
        return picture.astype(np.float16)

    def _padded(self, waveform: np.ndarray) -> np.ndarray:
        padded = np.zeros(self._samples, np.float32)
        padded[: len(waveform)] = waveform
        return padded

    def _fourier(self, waveform: np.ndarray) -> np.ndarray:
        return (self._transform(self._torch.from_numpy(self._padded(waveform))) + FLOOR).log().numpy()

    def _density(self, waveform: np.ndarray) -> np.ndarray:
        # As scipy.signal.spectrogram with its defaults, in a third of its time.
        torch, settings = self._torch, self._settings
        pieces = torch.from_numpy(self._padded(waveform)).unfold(0, settings.n_fft, settings.hop_length)
        spectrum = torch.fft.rfft((pieces - pieces.mean(dim=1, keepdim=True)) * self._window)
        density = torch.view_as_real(spectrum).square().sum(dim=2) * self._scale
        return (density + FLOOR).log().T.numpy()

    def _fbank(self, waveform: np.ndarray) -> np.ndarray:
        from torchaudio.compliance.kaldi import fbank

        settings = self._settings
        centred = np.zeros(max(len(waveform), settings.n_fft), np.float32)
        centred[: len(waveform)] = waveform - waveform.mean()
        bands = fbank(
            self._torch.from_numpy(centred)[None],
            htk_compat=True,
            sample_frequency=settings.sample_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=settings.n_mels,
            dither=0.0,
            frame_length=1000 * settings.n_fft / settings.sample_rate,
            frame_shift=1000 * settings.hop_length / settings.sample_rate,
        )
        # As published: what is missing is 0, not the logarithm of silence.
        picture = np.zeros(self._shape, np.float32)
        kept = bands[: self._shape[1]].numpy().T
        picture[:, : kept.shape[1]] = kept
        return picture
