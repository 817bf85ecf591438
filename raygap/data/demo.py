"""The demo data set: about 1,000 synthetic clips that reproduce modality imbalance, written as real media files.

Nothing is downloaded. Every clip is an mp4 file of 2 s (64x64 pixels at 10 frames/s as h264, 16 kHz mono sound as AAC),
so the demo runs through the same readers and decoders as a real data set. It takes seconds to generate.

**The clips.** Eight classes (`LABELS`) of 125 clips: 640 clips to train on, 160 for validation, 200 for test. They are
drawn and synthesised by formulas, so the demo shows that a pipeline works and what imbalance looks like; how good a
method is must be judged on real data.

* Sound: a timbre, a pitch contour and a rhythm, with random pitch, tempo, onset, level and background noise of random
  colour. `bell`/`gong` are struck metal whose pitches and decays overlap, and `truck`/`helicopter` are rumbles that
  overlap likewise: sound tells the members of these two pairs apart only a little better than by guessing.
* Picture: a moving silhouette of random place, size, tilt and colour, before a textured background with random
  rectangles and ellipses. `gong`/`drum` (a disc, with or without a small boss) and `ambulance`/`truck` (a box on
  wheels, with or without a lamp and a small cross) look almost the same.

So each modality knows what the other does not (a gong is told from a bell by the picture and from a drum by the sound),
and neither is enough. Sound is the easier one: a log-mel picture of it is hardly cluttered and always in the same
place, while the silhouette must be found first. That is the imbalance: trained jointly, the network soon relies on the
sound, and the visual encoder learns less than it does when trained alone.

**What is planted.** In every class, 40 % of the TRAINING clips are damaged, in one of three ways:

* `spoiled_picture` (20 %): the picture carries no trace of the class: the background without the silhouette, moving
  stripes, or pixel noise (one third each). The sound is intact.
* `spoiled_sound` (10 %): the sound carries no trace of the class: broadband noise, mains hum, or very faint noise
  (one third each; never digital silence). The picture is intact.
* `mismatched` (10 %): an intact picture of another class, drawn at random among those that do not look almost the
  same. The label is that of the sound.

Validation and test clips are all `clean`. The truth is written to the column `planted` of manifest.csv so that
diagnoses can be scored against it; training never reads it. Both modalities of a clean clip are generated
independently given the class; nothing in a file's name, place in the manifest or length tells class, split or damage.

**What was tuned.** Only the difficulty of each modality alone and of plain joint training; no imbalance method was
looked at.

**Reproducibility.** Every clip follows from (seed, clip index) alone, whatever the number of workers. The same machine
and libraries give the same files; other versions of the codecs may give slightly different ones.
"""

import csv
import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from raygap.errors import UserError

# No import of torch here, nor of raygap modules that import it: every worker process would pay for it.

LABELS = ("bell", "gong", "drum", "clock", "ambulance", "truck", "helicopter", "bird")
LOOKS_LIKE = {"gong": "drum", "drum": "gong", "ambulance": "truck", "truck": "ambulance"}
SPLITS = ("train", "val", "test")
PLANTED_SHARES = {"spoiled_picture": 0.2, "spoiled_sound": 0.1, "mismatched": 0.1}
COLUMNS = ("video", "label", "split", "planted")

SECONDS = 2
FRAME_SIZE = 64
FRAME_RATE = 10
SAMPLE_RATE = 16_000

NAME = "demo-v1"
STALE_SECONDS = 3600.0
"""A temporary folder older than this belongs to a generation that was killed."""

Array = NDArray[np.float32]


class Clip(NamedTuple):
    """One row of the plan: what clip `index` shows."""

    index: int
    label: str
    split: str
    planted: str


# ---------------------------------------------------------------------------------------------------------------------
# Sound: (32000,) float32 at 16 kHz, before the level is set.

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
    sound = sum(np.sin(k * phase + rng.uniform(0, 6)) / k for k in range(1, 12)) + 0.4 * _coloured_noise(rng, 0.8)
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
    return sum(np.sin(k * phase) / k for k in range(1, 4)).astype(np.float32)


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


def _render_sound(label: str, spoiled: bool, rng: np.random.Generator) -> Array:
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


# ---------------------------------------------------------------------------------------------------------------------
# Picture: shapes are signed distances, negative inside, of shape (20 or 1, 64, 64).
# Random numbers enter as Python floats: a numpy float64 scalar would turn every array it meets into float64.

_FRAMES = SECONDS * FRAME_RATE
_CLOCK = np.arange(_FRAMES, dtype=np.float32)[:, None, None] / FRAME_RATE
_Y, _X = np.mgrid[:FRAME_SIZE, :FRAME_SIZE].astype(np.float32)[:, None]


def _disc(x: Array, y: Array, cx: float | Array, cy: float | Array, radius: float) -> Array:
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def _ellipse(x: Array, y: Array, cx: float | Array, cy: float | Array, a: float, b: float) -> Array:
    # Not a true distance, but near the outline it is close enough to anti-alias with.
    return (np.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2) - 1) * min(a, b)


def _box(x: Array, y: Array, cx: float | Array, cy: float | Array, a: float | Array, b: float | Array) -> Array:
    return np.maximum(np.abs(x - cx) - a, np.abs(y - cy) - b)


def _union(*shapes: Array) -> Array:
    whole = shapes[0]
    for shape in shapes[1:]:
        whole = np.minimum(whole, shape)
    return whole


def _silhouette(label: str, x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Body and markings of a class as signed distances, in units in which the object's half size is about 1."""
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.6)
    swing = np.sin(2 * np.pi * rate * _CLOCK + phase)
    match label:
        case "bell":
            angle = 0.3 * swing
            x, y = x * np.cos(angle) + (y + 1) * np.sin(angle), (y + 1) * np.cos(angle) - x * np.sin(angle) - 1
            flare = np.maximum(np.abs(x) - (0.5 + 0.18 * (y + 0.2) + 0.35 * np.maximum(y, 0) ** 2), np.abs(y) - 0.7)
            body = _union(flare, _disc(x, y, 0, -0.6, 0.42), _box(x, y, 0, 0.7, 0.95, 0.08))
            return body, _disc(x, y, 0, 0.9, 0.18)
        case "gong" | "drum":
            radius = 0.9 + 0.06 * swing
            ring = np.abs(np.sqrt(x**2 + y**2) - 0.78 * radius) - 0.07
            return _disc(x, y, 0, 0, radius), (_union(ring, _disc(x, y, 0, 0, 0.28)) if label == "gong" else ring)
        case "clock":
            case_ = _box(x, y, 0, 0.1, 0.38, 0.95)
            pendulum = _disc(x, y, 0.22 * swing, 0.55, 0.13)
            return _union(case_, _disc(x, y, 0, -0.6, 0.45)), _union(_disc(x, y, 0, -0.6, 0.3), pendulum)
        case "ambulance" | "truck":
            body = _union(
                _box(x, y, -0.2, -0.1, 0.8, 0.5), _box(x, y, 0.75, 0.12, 0.25, 0.28),
                _disc(x, y, -0.6, 0.5, 0.22), _disc(x, y, 0.6, 0.5, 0.22),
            )  # fmt: skip
            marks = _union(_disc(x, y, -0.6, 0.5, 0.1), _disc(x, y, 0.6, 0.5, 0.1), _box(x, y, 0.8, 0.0, 0.12, 0.1))
            if label == "ambulance":
                body = _union(body, _box(x, y, 0.1, -0.68, 0.16, 0.1))
                marks = _union(marks, _box(x, y, -0.25, -0.12, 0.26, 0.07), _box(x, y, -0.25, -0.12, 0.07, 0.26))
            return body, marks
        case "helicopter":
            blade = 0.25 + 0.75 * np.abs(np.cos(2 * np.pi * 2.3 * rate * _CLOCK + phase))
            body = _union(
                _ellipse(x, y, 0.25, 0.2, 0.55, 0.4), _box(x, y, -0.5, 0.1, 0.5, 0.08),
                _box(x, y, 0.25, -0.35, blade, 0.06), _box(x, y, -0.95, -0.05, 0.07, 0.25),
                _box(x, y, 0.25, 0.72, 0.5, 0.05),
            )  # fmt: skip
            return body, _ellipse(x, y, 0.5, 0.12, 0.2, 0.16)
        case "bird":
            lift = 0.55 * np.sin(2 * np.pi * 1.7 * rate * _CLOCK + phase)
            wing = np.abs(y + lift * np.abs(x) ** 1.3 - 0.1) - 0.16 * (1.05 - np.abs(x))
            wings = np.maximum(wing, np.abs(x) - 1)
            return _union(wings, _ellipse(x, y, 0, 0.15, 0.2, 0.38)), _disc(x, y, 0, -0.1, 0.07)
    raise AssertionError(label)


def _paint(picture: Array, distance: Array, scale: float, colour: Array) -> None:
    """Blend a colour (3,) into (3, 20, 64, 64) where the distance, `scale` pixels a unit, is negative; a soft edge."""
    cover = np.clip(0.5 - distance * scale, 0, 1)
    for channel, value in zip(picture, colour, strict=True):
        channel += cover * (value - channel)


def _background(rng: np.random.Generator) -> Array:
    """(3, 20, 64, 64) in 0..1: a wavy two-colour texture, with rectangles and ellipses that drift."""
    colours = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    colours[1] = 0.4 * colours[0] + 0.6 * colours[1]
    waves = np.zeros((1, FRAME_SIZE, FRAME_SIZE), np.float32)
    for _ in range(3):
        fx, fy = rng.normal(0, 0.12, 2).tolist()
        waves += np.sin(fx * _X + fy * _Y + rng.uniform(0, 6))
    mix = 0.5 + 0.5 * np.tanh(waves)
    low, high = colours[:, :, None, None, None]
    picture = np.repeat(low + mix * (high - low), _FRAMES, axis=1)
    for _ in range(rng.integers(1, 4)):
        (cx, cy), (vx, vy) = rng.uniform(0, FRAME_SIZE, 2).tolist(), rng.normal(0, 4, 2).tolist()
        a, b = rng.uniform(2, 9, 2).tolist()
        shape = _box if rng.random() < 0.5 else _ellipse
        distance = shape(_X, _Y, cx + vx * _CLOCK, cy + vy * _CLOCK, a, b)
        _paint(picture, distance, 1.0, rng.uniform(0, 1, 3).astype(np.float32))
    return picture


def _add_object(picture: Array, label: str, rng: np.random.Generator) -> None:
    """Paint a class's silhouette into (3, 20, 64, 64), wandering slowly."""
    size = rng.uniform(15, 22)
    cx, cy = rng.uniform(size, FRAME_SIZE - size, 2).tolist()
    vx, vy = rng.normal(0, 2, 2).tolist()
    angle = rng.normal(0, 0.15)
    cos, sin = math.cos(angle), math.sin(angle)
    side = -1 if rng.random() < 0.5 else 1  # seen from the left or the right
    dx = (_X - cx - vx * (_CLOCK - SECONDS / 2)) * (side / size)
    dy = (_Y - cy - vy * (_CLOCK - SECONDS / 2)) / size
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    body, marks = _silhouette(label, x, y, rng)
    colour = rng.uniform(0, 1, 3)
    contrast = rng.uniform(0.35, 0.7) * (1 if colour.mean() < 0.5 else -1)
    _paint(picture, body, size, colour.astype(np.float32))
    _paint(picture, marks, size, np.clip(colour + contrast, 0, 1).astype(np.float32))


def _render_picture(label: str, spoiled: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(20, 64, 64, 3) RGB: the class's silhouette before clutter, or one of the three kinds of spoiled picture."""
    picture = _background(rng)
    kind = rng.integers(3) if spoiled else -1  # of the spoiled ones, 0 is the background alone
    if not spoiled:
        _add_object(picture, label, rng)
    elif kind == 1:
        fx, fy, speed = rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8), rng.uniform(2, 8)
        stripes = 0.5 + 0.5 * np.sin(fx * _X + fy * _Y + speed * _CLOCK)
        colour = rng.uniform(0, 1, 3).astype(np.float32)
        picture += 0.8 * (stripes * colour[:, None, None, None] - picture)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    if kind == 2:
        picture = 0.5 + 0.1 * (picture - 0.5) + 0.3 * noise
    else:
        picture += rng.uniform(0.02, 0.10) * noise
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


# ---------------------------------------------------------------------------------------------------------------------
# Files.


def _write_mp4(path: Path, picture: NDArray[np.uint8], sound: Array) -> None:
    """Write (T, H, W, 3) RGB and (samples,) float32 as one mp4 file, h264 and AAC."""
    with av.open(path, "w", format="mp4") as container:
        # One thread and no look-ahead: the workers already fill the cores, and the file depends on neither.
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "22", "threads": "1"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        video.width, video.height, video.pix_fmt = FRAME_SIZE, FRAME_SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        audio.bit_rate = 48_000
        for image in picture:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())


def _write_clip(folder: Path, clip: Clip, seed: int) -> None:
    # A stream of random numbers for each purpose: a change to the picture leaves the sound as it is.
    seen, rng_pair = clip.label, np.random.default_rng([seed, clip.index, 0])
    if clip.planted == "mismatched":
        seen = str(rng_pair.choice([x for x in LABELS if x not in (clip.label, LOOKS_LIKE.get(clip.label))]))
    spoiled_sound = clip.planted == "spoiled_sound"
    spoiled_picture = clip.planted == "spoiled_picture"
    sound = _render_sound(clip.label, spoiled_sound, np.random.default_rng([seed, clip.index, 1]))
    picture = _render_picture(seen, spoiled_picture, np.random.default_rng([seed, clip.index, 2]))
    _write_mp4(folder / _file_name(clip.index), picture, sound)


def _file_name(index: int) -> str:
    return f"clips/{index:05d}.mp4"


def _plan(clips_per_class: Sequence[int], seed: int) -> list[Clip]:
    """All clips in order of index, the labels and splits shuffled over the indices."""
    rows = []
    for label in LABELS:
        for split, count in zip(SPLITS, clips_per_class, strict=True):
            planted = []
            if split == "train":
                planted = [name for name, share in PLANTED_SHARES.items() for _ in range(round(share * count))]
            rows += [(label, split, name) for name in planted + ["clean"] * (count - len(planted))]
    order = np.random.default_rng([seed]).permutation(len(rows))
    return [Clip(index, *rows[row]) for index, row in enumerate(order)]


def _write_share(folder: Path, clips_per_class: Sequence[int], seed: int, worker: int, workers: int) -> None:
    for clip in _plan(clips_per_class, seed)[worker::workers]:
        _write_clip(folder, clip, seed)


def generate_demo(
    folder: Path,
    *,
    clips_per_class: Sequence[int] = (80, 20, 25),
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write `folder/clips/*.mp4`, then `folder/manifest.csv` (columns video, label, split, planted; relative paths).

    Args:
        folder: Created if missing. manifest.csv appears last: without it the folder is not complete.
        clips_per_class: Clips of each of the 8 classes in train, val and test.
        seed: Everything follows from it and a clip's index; at least 0.
        workers: Processes; the cores this process may use if None. It does not change the result.

    Raises:
        UserError: The folder already holds a manifest.
        RuntimeError: A worker failed; with the end of what it printed.
    """
    folder = Path(folder)
    manifest = folder / "manifest.csv"
    if manifest.exists():
        raise UserError(f"{folder}: already holds a data set; name another folder")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers == 1:
        _write_share(folder, clips_per_class, seed, 0, 1)
    else:
        _run_workers(folder, clips_per_class, seed, workers)
    partial = folder / "manifest.csv.partial"
    with partial.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for clip in _plan(clips_per_class, seed):
            rows.writerow((_file_name(clip.index), clip.label, clip.split, clip.planted))
    partial.rename(manifest)


def _run_workers(folder: Path, clips_per_class: Sequence[int], seed: int, workers: int) -> None:
    # Plain child processes running this module, not multiprocessing: a forked child would inherit the threads of torch
    # and Ray, and a spawned one first imports the caller's main module, torch and all, which takes longer than the job.
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    children = []
    try:
        for worker in range(workers):
            numbers = [str(number) for number in (seed, worker, workers, *clips_per_class)]
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "raygap.data.demo", str(folder), *numbers],
                    env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                    stdin=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for child in children:
            _, errors = child.communicate()
            if child.returncode != 0:
                raise RuntimeError(
                    f"a worker that wrote the demo data set failed ({child.returncode}): {errors[-2000:]}"
                )
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def ensure_demo(root: Path | None = None) -> Path:
    """The folder of the demo data set (with manifest.csv), generated on the first call.

    The folder is `demo-v1` in `root`, else in the environment's RAYGAP_CACHE, else in ~/.cache/raygap. It is written
    under a temporary name and then renamed, so it is there either whole or not at all; of two processes that generate
    at once, one wins and both return the same folder.

    Raises:
        UserError: The folder is there but has lost its manifest.
    """
    if root is None:
        root = Path(os.environ.get("RAYGAP_CACHE") or Path.home() / ".cache" / "raygap")
    folder = Path(root) / NAME
    if (folder / "manifest.csv").exists():
        return folder
    if folder.exists():
        raise UserError(f"{folder}: has no manifest.csv; delete the folder and it will be generated again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    temporary = folder.parent / f".{NAME}-{uuid.uuid4().hex}"
    try:
        generate_demo(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "manifest.csv").exists():  # otherwise another process was first: take its folder
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _remove_stale(parent: Path) -> None:
    for leftover in parent.glob(f".{NAME}-*"):
        try:
            stale = time.time() - leftover.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:  # renamed or removed by another process since it was listed
            continue
        if stale:
            shutil.rmtree(leftover, ignore_errors=True)


if __name__ == "__main__":
    _seed, _worker, _workers, *_counts = map(int, sys.argv[2:])
    _write_share(Path(sys.argv[1]), _counts, _seed, _worker, _workers)
