"""Settings that suit clips of one's own, by what their files say of themselves: no recipe is published for them.

A bounded sample of the files is opened, and nothing is decoded. What is chosen is noted in the cache, so that all
commands, on whatever machine, take the same and read one store.
"""

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import TypeAdapter

from raygap.data.clips import Clip, ClipList
from raygap.data.extracted import is_spectrogram, pictures_in, rate_of
from raygap.data.notes import read_note, write_note
from raygap.plugins import file_name

RULES = 1
"""Counted up when the rules below choose otherwise, so that what older ones chose is not taken from a note."""
OPENED = 64
"""Clips whose files are opened, evenly spread over the list."""
MOST_HZ, STEPS = 16_000, 64
"""Hz that sound has at most, and the windows that a clip's spectrogram has at least: four times halved, 4 are left."""
MANY = 2_000
"""Training clips from which a ResNet on a GPU is worth its time; the published ones train on 3,300 and more."""
STEPS_AN_EPOCH = 32
VISITS = {False: 16_000, True: 100_000}
"""How often all training clips together are looked at, without a GPU (False) and with one."""
EPOCHS = {False: (20, 60), True: (40, 60)}
TRIALS_ON_CPUS = 24
ALSO = {"model.audio.encoder": "pooled", "model.visual.encoder": "pooled", "augment.crop": 1.0}
"""Tried among the first."""
OF_FEW: dict[str, dict[str, Any]] = {
    "model.audio.encoder": {"choice": ["small_cnn", "pooled"]},
    "model.visual.encoder": {"choice": ["small_cnn", "pooled"]},
    "augment.crop": {"choice": [0.8, 1.0]},
    "optimizer.lr": {"choice": [0.003, 0.01, 0.03]},
}
"""What a sweep also searches where clips are few: whether what tells classes apart keeps its place (pooled, crop 1.0),
or moves, is seen on validation alone. Of 62 spoken digits small_cnn got 0.1 more right, of 129 drones pooled 0.1. The
rates are without the usual highest: that is for batches of 64, and rates go with the batch (Goyal et al., 2017)."""


@dataclass(frozen=True)
class Seen:
    """Clips, by their list and by the headers of some of their files; None: no file that was opened says it."""

    clips: int
    trained: int
    classes: int
    opened: int = 0
    """Clips whose files could be read, of those that the next numbers are of."""
    half: float | None = None
    """Seconds that half of the clips last at most."""
    most: float | None = None
    """Seconds that nine of ten clips last at most."""
    side: int | None = None
    """Pixels of the pictures' shorter side, the median."""
    still: bool = False
    """Half of the pictures or more do not move."""
    frame_rate: float | None = None
    rate: int | None = None
    """Hz of the sound, the median."""

    def __str__(self) -> str:
        pictures = f"pictures of {self.side} pixels and more" if self.side else ""
        moving = ", still" if self.still else f", {self.frame_rate:.0f} a second" if self.frame_rate else ""
        lengths = f"half last {self.half:.2g} s or less, nine in ten {self.most:.2g} s" if self.half else ""
        sound = f"sound at {self.rate:,} Hz" if self.rate else ""
        seen = "; ".join(filter(None, (lengths, pictures and pictures + moving, sound)))
        of_files = f"; {seen} (of {self.opened} that were opened)" if seen else "; no file of them could be read"
        return f"{self.clips:,} clips of {self.classes} classes, {self.trained:,} to train on{of_files}"


@dataclass(frozen=True)
class Fit:
    """What was chosen: fields by dotted path, the trials of a sweep (None: the space's), and why, a line each.

    A sweep searches `searched` beside, or in place of, the space's own; `also` is tried early.
    """

    fields: dict[str, Any]
    searched: dict[str, dict[str, Any]]
    also: dict[str, Any]
    trials: int | None
    lines: tuple[str, ...]
    gpu: bool


def fitted(clip_list: ClipList, cache: Path, gpu: bool, *, anew: bool = False) -> Fit:
    """The settings for these clips, as they are noted in the cache, or chosen now, `anew` in any case, and noted.

    `gpu`: whether there is one to train on.
    """
    note, key = cache / f"fit-{file_name(clip_list.name)}.json", _key(clip_list)
    noted = read_note(note)
    if key in noted and not anew:
        with suppress(ValueError):
            fit = TypeAdapter(Fit).validate_python(noted[key])
            return fit if fit.gpu == gpu else _of_another_machine(fit)
    fit = choose(look_at(clip_list), gpu)
    write_note(note, {**noted, key: asdict(fit)})
    return fit


def _of_another_machine(fit: Fit) -> Fit:
    had, here = ("with", "has none") if fit.gpu else ("without", "has one")
    line = f"chosen on a machine {had} a GPU, and this one {here}: raygap prepare --refresh here chooses anew"
    return replace(fit, lines=(*fit.lines, line))


def _key(clip_list: ClipList) -> str:
    """Of the clips, wherever they lie."""
    rows = [
        [clip.id, clip.label, clip.split, clip.start, clip.end]
        + [os.path.relpath(file, clip_list.root) if file else None for file in (clip.video, clip.audio)]
        for clip in clip_list.clips
    ]
    return hashlib.sha256(json.dumps([RULES, rows]).encode()).hexdigest()[:24]


def look_at(clip_list: ClipList) -> Seen:
    """Open the files of a sample of the clips and read their headers."""
    clips, count = clip_list.clips, min(OPENED, len(clip_list.clips))
    sample = [clips[round(i * (len(clips) - 1) / max(count - 1, 1))] for i in range(count)]
    headers = [header for clip in sample if (header := _header(clip))]
    seconds = sorted(header.seconds for header in headers if header.seconds)
    moving = [header.frame_rate for header in headers if header.frame_rate and not header.still]
    rates = [header.rate for header in headers if header.rate]
    return Seen(
        len(clips),
        sum(clip.split == "train" for clip in clips),
        len(clip_list.class_names),
        len(headers),
        median(seconds) if seconds else None,
        seconds[math.ceil(0.9 * len(seconds)) - 1] if seconds else None,
        int(median(header.side for header in headers)) if headers else None,
        2 * sum(header.still for header in headers) >= len(headers) > 0,
        median(moving) if moving else None,
        int(median(rates)) if rates else None,
    )


@dataclass(frozen=True)
class _Header:
    side: int
    still: bool
    frame_rate: float | None
    seconds: float | None
    rate: int | None


def _header(clip: Clip) -> _Header | None:
    """What a clip's files say; None if they cannot be read."""
    from raygap.data.media.files import BadClip, is_still, open_media, picture_stream

    folder = clip.video.is_dir()
    with suppress(BadClip, OSError, IndexError):
        frames = pictures_in(clip.video) if folder else []
        with open_media(frames[0] if folder else clip.video) as container:
            picture = picture_stream(container)
            still, whole = is_still(container), container.duration
            rate = float(picture.average_rate) if picture.average_rate else None
            side = min(picture.width, picture.height)
            sound = [track.rate for track in container.streams.audio]
        if folder:
            still, rate = len(frames) == 1, rate_of(clip.video)
            whole = int(1e6 * len(frames) / rate) if rate else None  # as FFmpeg counts, in microseconds
        if clip.audio and not is_spectrogram(clip.audio):
            with open_media(clip.audio) as container:
                whole, sound = container.duration, [track.rate for track in container.streams.audio]
        end = clip.end or (whole / 1e6 if whole else None)
        seconds = None if end is None else end - (clip.start or 0)
        return _Header(side, still, rate, seconds, sound[0] if sound else None)
    return None


def choose(seen: Seen, gpu: bool) -> Fit:
    """The settings for clips like these, to be trained with or without a GPU."""
    fields, of_store = _store(seen, gpu)
    few = seen.trained < MANY
    large = gpu and not few
    small = {"model.encoder": "small_cnn", "model.width": 32 if gpu else 16, "optimizer.lr": 0.03}
    fields |= {"model.encoder": "resnet18", "optimizer.lr": 0.01} if large else small
    why = "there is no GPU" if not gpu else f"{seen.trained:,} clips are {'enough' if large else 'few'} for a ResNet"
    network = f"{fields['model.encoder']}{'' if large else ' of width ' + str(fields['model.width'])}, as {why}"
    batch = _power_of_two(seen.trained / STEPS_AN_EPOCH, 8, 64)
    steps = max(math.ceil(seen.trained / batch), 1)
    low, high = EPOCHS[gpu]
    epochs = min(max(round(VISITS[gpu] / max(seen.trained, 1)), low), high)
    fields |= {"optimizer.batch_size": batch, "epochs": epochs}
    sweep = "a sweep has the trials of search_spaces/manifest.yaml"
    if not gpu:
        sweep = f"a sweep has {TRIALS_ON_CPUS} trials, for want of a GPU"
    if few:
        sweep += "; it tries both encoders of each modality, as clips are few"
    return Fit(
        fields,
        OF_FEW if few else {},
        ALSO if few else {},
        None if gpu else TRIALS_ON_CPUS,
        (
            f"settings for these clips, where none are given: {seen}",
            *of_store,
            f"network: {network}; batches of {batch}, so that an epoch has {steps} steps; {epochs} epochs",
            f"{sweep}; --set FIELD=VALUE changes any of it",
        ),
        gpu,
    )


def _store(seen: Seen, gpu: bool) -> tuple[dict[str, Any], list[str]]:
    """The fields prepare.*, and a line on the pictures and one on the sound."""
    # To a tenth, as a length of 2.003 s is meant as 2; what is longer than the longest of published recipes is cut.
    seconds = min(max(math.ceil(10 * round(seen.most or 2.0, 2)) / 10, 0.2), 10.0)
    frames = 1 if seen.still else min(max(round(seconds * (2 if gpu else 0.5)), 1), 3)
    most = 112 if gpu else 48
    size = max(min(most, 8 * ((seen.side or most) // 8)), 24)
    rate = min(seen.rate or MOST_HZ, MOST_HZ)
    # A window of 64 ms, and a step of at least 8.
    window = _power_of_two(0.064 * rate, 256, 1024)
    step = _power_of_two(seconds * rate / STEPS, window // 8, window)
    bands = 128 if gpu and window == 1024 else 64
    fields = {"frames": frames, "frame_size": size, "seconds": seconds, "sample_rate": rate}
    fields |= {"n_mels": bands, "n_fft": window, "hop_length": step}
    of_pictures = "they are still" if seen.still else f"of {seconds:g} s"
    small = "as large as they are" if size < most else "enough to tell things apart, and quick" if gpu else "no GPU"
    cut = "longer ones are cut" if (seen.most or 0) > seconds else "as long as nine in ten last"
    return {f"prepare.{name}": value for name, value in fields.items()}, [
        f"pictures: {frames} of a clip ({of_pictures}), {size} x {size} pixels ({small})",
        f"sound: {seconds:g} s ({cut}) at {rate:,} Hz, {bands} bands every {1000 * step / rate:.0f} ms",
    ]


def _power_of_two(wanted: float, low: int, high: int) -> int:
    """The nearest to what is wanted, within bounds that are powers of two."""
    return min(max(2 ** round(math.log2(max(wanted, 1))), low), high)
