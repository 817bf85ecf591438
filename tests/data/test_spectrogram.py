import numpy as np
import pytest
from media import tone

from raygap.config import Prepare
from raygap.data.spectrogram import FLOOR, Spectrogram, spectrogram_shape

# The recipe published with CREMA-D.
PUBLISHED = Prepare(spectrogram="stft", sample_rate=22_050, seconds=3, n_fft=512, hop_length=353)


def test_shapes():
    assert spectrogram_shape(Prepare()) == (64, 63)
    assert spectrogram_shape(PUBLISHED) == (257, 188)


@pytest.mark.parametrize("settings", [Prepare(), PUBLISHED, Prepare(seconds=0.01, n_fft=8192)])
def test_output_has_the_announced_shape_and_is_finite(settings):
    spectrogram = Spectrogram(settings)
    for seconds in (0.005, 1.0, 70.0):
        picture = spectrogram(tone(440, seconds=seconds, rate=settings.sample_rate))
        assert picture.shape == spectrogram_shape(settings)
        assert picture.dtype == np.float16
        assert np.isfinite(picture).all()


def test_a_tone_peaks_in_its_bin_and_silence_follows_it():
    frequency = 22_050 / 512 * 40
    picture = Spectrogram(PUBLISHED)(tone(frequency, seconds=1.5, rate=22_050))
    assert (picture[:, 5:85].argmax(axis=0) == 40).all()
    assert picture[:, 100:] == pytest.approx(np.log(FLOOR), abs=0.01)
    # A sine of amplitude a gives a * (sum of the Hann window) / 2 at its own frequency.
    assert picture[40, 50] == pytest.approx(np.log(0.5 * 256 / 2), abs=0.01)


def test_mel_bands_rise_with_frequency():
    bands = [Spectrogram(Prepare())(tone(f, seconds=2)).mean(axis=1).argmax() for f in (200, 440, 1000, 3000, 7000)]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("settings", [Prepare(), PUBLISHED])
def test_the_same_sound_gives_the_same_bytes(settings):
    sound = np.random.default_rng(0).normal(size=30_000).astype(np.float32)
    assert Spectrogram(settings)(sound).tobytes() == Spectrogram(settings)(sound.copy()).tobytes()
