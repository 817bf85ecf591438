"""The sounds of the demo data set: (32000,) float32 at 16 kHz, by formulas; what they are is told in demo.py."""

from typing import cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

SECONDS = 2
"""Length of a clip."""
SAMPLE_RATE = 16_000

_TIME = np.arange(SECONDS * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE


def _coloured_noise(rng: np.random.Generator, slope: float, low: float = 0.0, high: float = 8000.0) -> Array:
    """Unit-variance noise whose amplitude falls as frequency ** -slope, between two frequencies in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(_TIME.size, dtype=np.float32))
    frequency = np.fft.rfftfreq(_TIME.size, 1 / SAMPLE_RATE)
    spectrum *= np.maximum(frequency, 20.0) ** -slope * ((frequency >= low) & (frequency <= high))
    noise = np.fft.irfft(spectrum, _TIME.size)
    return (noise / noise.std()).astype(np.float32)


def _onsets(rng: np.random.Generator, interval: float, jitter: float) -> list[float]:
    """Times in s, `interval` apart on average, from a random first one to the end of the clip."""
    times = [rng.uniform(0, min(interval, 0.5))]
    while times[-1] + interval < SECONDS - 0.1:
        times.append(times[-1] + interval * (1 + jitter * rng.uniform(-1, 1)))
    return [time for time in times if time < SECONDS]


def _since(onset: float) -> Array:
    """Seconds since the onset, at every sample from there to the end of the clip."""
    return _TIME[: _TIME.size - int(onset * SAMPLE_RATE)]


def _add(sound: Array, onset: float, event: Array) -> None:
    """Add an event, sampled at `_since(onset)`, to the sound."""
    sound[int(onset * SAMPLE_RATE) :] += event


def _struck_metal(rng: np.random.Generator, pitch: tuple[float, float], decay: tuple[float, float]) -> Array:
    sound = np.zeros_like(_TIME)
    base, fade = rng.uniform(*pitch), rng.uniform(*decay)
    church_bell = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.74, 3.76])
    partials = church_bell * rng.uniform(0.98, 1.02, 7)
    strengths = rng.uniform(0.3, 1.0, 7) / np.arange(1, 8) ** 0.5
    for onset in _onsets(rng, rng.uniform(0.5, 1.1), 0.1):
        t = _since(onset)
        for partial, strength in zip(partials.tolist(), strengths.tolist(), strict=True):
            ring = np.sin(2 * np.pi * base * partial * t) * np.exp(-t * (0.7 + 0.3 * partial) / fade)
            _add(sound, onset, (strength * ring).astype(np.float32))
    return sound


def _rumble(rng: np.random.Generator, pitch: tuple[float, float], beat: tuple[float, float]) -> Array:
    base, rate = rng.uniform(*pitch), rng.uniform(*beat)
    phase = 2 * np.pi * np.cumsum(base * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 1) * _TIME))) / SAMPLE_RATE
    tone = cast(Array, sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 12)))
    sound = tone + 0.4 * _coloured_noise(rng, 0.8)
    depth = rng.uniform(0.3, 0.8)
    return (sound * (1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rate * _TIME)))).astype(np.float32)


def _drum_sound(rng: np.random.Generator) -> Array:
    sound = np.zeros_like(_TIME)
    base, fade = rng.uniform(80, 170), rng.uniform(0.06, 0.15)
    hiss = _coloured_noise(rng, 0.3)
    for onset in _onsets(rng, rng.uniform(0.2, 0.5), 0.15):
        t = _since(onset)
        thump = np.sin(2 * np.pi * base * (t + 0.02 * (1 - np.exp(-t / 0.02)))) + 0.4 * hiss[: t.size]
        _add(sound, onset, (thump * np.exp(-t / fade)).astype(np.float32))
    return sound


def _clock_sound(rng: np.random.Generator) -> Array:
    sound = np.zeros_like(_TIME)
    centre = rng.uniform(1500, 3500)
    click = _coloured_noise(rng, 0.0, centre * 0.7, centre * 1.4)
    for i, onset in enumerate(_onsets(rng, rng.uniform(0.2, 0.5), 0.01)):
        t = _since(onset)
        _add(sound, onset, (click[: t.size] * np.exp(-t / 0.015) * (1.0 if i % 2 else 0.6)).astype(np.float32))
    return sound


def _siren_sound(rng: np.random.Generator) -> Array:
    centre, width, rate = rng.uniform(700, 1100), rng.uniform(0.2, 0.4), rng.uniform(0.5, 2.5)
    contour = centre * (1 + width * np.sin(2 * np.pi * (rate * _TIME + rng.uniform())))
    phase = 2 * np.pi * np.cumsum(contour) / SAMPLE_RATE
    tone = cast(Array, sum(np.sin(k * phase) / k for k in range(1, 4)))
    return tone.astype(np.float32)


def _bird_sound(rng: np.random.Generator) -> Array:
    sound = np.zeros_like(_TIME)
    centre = rng.uniform(2200, 4500)
    for onset in _onsets(rng, rng.uniform(0.2, 0.5), 0.4):
        t = _since(onset)
        length, slide = rng.uniform(0.06, 0.18), rng.uniform(-0.4, 0.4)
        pitch = centre * (1 + slide * np.minimum(t / length, 1))
        chirp = np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) * np.sin(np.pi * np.minimum(t / length, 1)) ** 2
        _add(sound, onset, chirp.astype(np.float32))
    return sound


def _class_sound(label: str, rng: np.random.Generator) -> Array:
    match label:
        case "bell":
            return _struck_metal(rng, (420, 900), (0.30, 0.7))
        case "gong":
            return _struck_metal(rng, (360, 800), (0.35, 0.8))
        case "truck":
            return _rumble(rng, (50, 105), (6, 13))
        case "helicopter":
            return _rumble(rng, (55, 115), (7, 15))
        case "drum":
            return _drum_sound(rng)
        case "clock":
            return _clock_sound(rng)
        case "ambulance":
            return _siren_sound(rng)
        case "bird":
            return _bird_sound(rng)
    raise AssertionError(label)


def render_sound(label: str, spoiled: bool, rng: np.random.Generator) -> Array:
    """(32000,) float32 in [-1, 1]: the class's sound in noise, or one of the three kinds of spoiled sound."""
    background = _coloured_noise(rng, rng.uniform(0.0, 1.0))
    if not spoiled:
        sound = _class_sound(label, rng)
        ratio = 10 ** (rng.uniform(-10, 8) / 20)  # signal to noise, -10 to 8 dB
        sound = ratio * sound / (sound.std() + 1e-6) + background
        peak = 10 ** rng.uniform(-1.0, -0.1)
    else:
        kind = rng.integers(3)
        sound, peak = background, 10 ** rng.uniform(-1.0, -0.1)
        if kind == 1:
            hum = 2 * np.pi * (50 if rng.random() < 0.5 else 60) * _TIME
            sound = sum(np.sin(k * hum + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5)) + 0.05 * background
        elif kind == 2:
            peak = 10 ** rng.uniform(-3.0, -2.5)
    return (peak * sound / np.abs(sound).max()).astype(np.float32)
