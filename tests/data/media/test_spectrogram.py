import numpy as np
import pytest
import scipy.signal
import torch
from media import tone
from torchaudio.compliance.kaldi import fbank

from raygap.config import RECIPES, Prepare
from raygap.data.media.spectrogram import FLOOR, Spectrogram, longest_sound, spectrogram_shape
from raygap.errors import UserError
from raygap.schema import from_mapping, parse_assignments
from raygap.search.space import load_space

# That of OGM-GE for CREMA-D, but for the filling up.
PUBLISHED = Prepare(spectrogram="stft", sample_rate=22_050, seconds=3, n_fft=512, hop_length=353)


def recipe(dataset):
    """The prepare.* fields that search_spaces/ gives a data set."""
    return from_mapping(load_space(dataset, None, None).fixed).prepare


def test_shapes():
    assert spectrogram_shape(Prepare()) == (64, 63)
    assert spectrogram_shape(PUBLISHED) == (257, 188)


@pytest.mark.parametrize(
    ("dataset", "name", "shape"),
    [("cremad", "ogm_ge", (257, 188)), ("ave", "pmr", (257, 1004)), ("kinetic_sound", "audioset", (128, 1024))],
)
def test_the_recipes_have_their_published_shapes(dataset, name, shape):
    settings = recipe(dataset)
    assert settings == from_mapping({"prepare.recipe": name, "prepare.frames": settings.frames}).prepare
    assert spectrogram_shape(settings) == shape
    for seconds in (0.02, 2.3, 11.0):
        picture = Spectrogram(settings)(tone(440, seconds=seconds, rate=settings.sample_rate))
        assert picture.shape == shape
        assert np.isfinite(picture).all()


def test_a_waveform_is_kept_as_it_is():
    settings = Prepare(spectrogram="waveform", sample_rate=16_000, seconds=0.5)
    sound = tone(440, seconds=0.25, rate=16_000)
    kept = Spectrogram(settings)(sound)
    assert kept.shape == spectrogram_shape(settings) == (1, 8000)
    assert kept[0, : len(sound)] == pytest.approx(sound, abs=1e-3)
    assert not kept[0, len(sound) :].any()


def test_a_recipe_replaces_another_whole_and_can_be_refined():
    assert len({frozenset(fields) for fields in RECIPES.values()}) == 1
    fixed = load_space("cremad", None, None).fixed
    other = from_mapping(fixed | parse_assignments(["prepare.recipe=pmr", "prepare.seconds=4"])).prepare
    assert other == recipe("ave").model_copy(update={"seconds": 4.0, "frames": 3})
    with pytest.raises(UserError, match=r"prepare\.recipe = 'ogm': unknown recipe; choose from ogm_ge, pmr, audioset"):
        parse_assignments(["prepare.recipe=ogm"])


def test_ogm_ge_recipe():
    settings = recipe("cremad")
    sound = np.random.default_rng(0).normal(0, 0.7, 50_000).astype(np.float32)
    tiled = np.pad(np.clip(np.tile(sound, 3)[: 3 * 22_050], -1, 1), 256)
    windows = np.lib.stride_tricks.sliding_window_view(tiled, 512)[::353] * np.hanning(513)[:-1]
    expected = np.log(np.abs(np.fft.rfft(windows, axis=1)) + 1e-7).T
    assert Spectrogram(settings)(sound) == pytest.approx(expected, abs=0.01)


def test_pmr_recipe():
    settings = recipe("ave")
    assert (settings.sample_rate, longest_sound(settings)) == (22_050, 160_000)
    sound = np.random.default_rng(0).normal(0, 0.7, 50_000).astype(np.float32)
    limited = np.clip(np.tile(sound, 10)[:160_000], -1, 1)
    _, _, density = scipy.signal.spectrogram(limited, 22_050, nperseg=512, noverlap=353)
    logarithm = np.log(density + 1e-7)
    expected = (logarithm - logarithm.mean()) / logarithm.std()
    assert Spectrogram(settings)(sound) == pytest.approx(expected, abs=0.01)


def test_kaldi_recipe():
    settings = recipe("kinetic_sound")
    for samples in (50_000, 200_000):
        sound = torch.from_numpy(np.random.default_rng(0).normal(0.1, 0.1, samples).astype(np.float32))[None]
        bands = fbank(
            sound - sound.mean(),
            htk_compat=True,
            sample_frequency=16_000,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=128,
            dither=0.0,
            frame_shift=10,
        )
        expected = torch.nn.functional.pad(bands, (0, 0, 0, max(1024 - len(bands), 0)))[:1024].T.numpy()
        # The mean that is taken off is that of the sound that is kept.
        assert Spectrogram(settings)(sound[0].numpy()) == pytest.approx(expected, abs=0.02)


def test_sound_is_filled_up_with_itself_or_with_silence():
    sound = tone(440, seconds=0.5)
    once, twice = (Spectrogram(Prepare(seconds=1, hop_length=500, fill=fill))(sound) for fill in ("silence", "repeat"))
    assert once[:, 20:] == pytest.approx(np.log(FLOOR), abs=0.01)
    assert (twice[:, 18:28] == twice[:, 2:12]).all()


def test_settings_that_leave_no_window_are_refused():
    with pytest.raises(UserError, match="spectrogram psd needs hop_length <= n_fft <= seconds"):
        from_mapping({"prepare.spectrogram": "psd", "prepare.seconds": 0.01})


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
