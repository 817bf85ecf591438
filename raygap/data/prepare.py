"""Making a store: every clip of a data set is decoded once, in parallel."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import cpu_count  # those that an affinity or a container's quota leaves to this process

from raygap.config import Prepare
from raygap.data.checksums import media_checksums, note_twins
from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut, by_reason
from raygap.data.decoding import Decoded, check_files, decode_here, decode_on_ray
from raygap.data.extracted import is_spectrogram
from raygap.data.media.files import BadClip
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.store import Store, StoreWriter, store_folder, store_key, written_once
from raygap.errors import UserError

JOURNAL = "finished.jsonl"
"""In a store in the making: the row of each clip that is finished, and what is noted of it, a line each."""
GIVES_UP_AFTER = 1000
"""Bad clips beyond the allowed share at which preparation looks for no more of them."""
NAMED = 100
"""Bad clips of one kind that a refusal names."""
IMAGENET = {"frame_mean": [123.675, 116.28, 103.53], "frame_std": [58.395, 57.12, 57.375]}
AUDIOSET = {"spectrogram_mean": -4.503877, "spectrogram_std": 2 * 5.141276}
"""The constants that published code divides Kaldi's filter banks by; the deviation is doubled there too."""


def prepare(
    clip_list: ClipList,
    settings: Prepare,
    cache: Path,
    *,
    max_quarantine: float = 0.05,
    workers: int | None = None,
    on_ray: bool = False,
    refresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder under `cache` of the store made of these clips with these settings; it is made if it is not there.

    A clip that cannot be decoded is quarantined: left out, and named with its reason in the store, as the faulty lines
    of the lists are. `max_quarantine` is the share of clips and faulty lines that may be; `workers` the number of
    processes (None: one for each core this process may use). `on_ray` spreads the work over the Ray cluster that this
    process is connected to instead, where `workers` is the number of tasks at a time (None: what keeps all its CPUs
    busy). `refresh` makes a store that is there anew, which then takes its place. `progress` is called with the clips
    done and the clips in all.

    Two processes that prepare the same store take turns, and the second finds it ready. Where one was killed, or gave
    up for too many bad clips or too little disk, the next goes on: what was finished, and is whole on the disk, is not
    decoded again. Bad clips are tried again, since what was in their way may be gone.

    Raises UserError: too many bad clips, a split or a class left empty, too little disk, a damaged store in the way.
    """
    if (clip_list.features is not None) != (settings.input == "features"):
        other = "media" if settings.input == "features" else "features"
        raise UserError(f"prepare.input = {settings.input}: {clip_list.name} has {other}; set prepare.input={other}")
    checksums = None
    if not clip_list.features:
        checksums = media_checksums(clip_list, cache, anew=refresh)
        clip_list = replace(clip_list, notes=(*clip_list.notes, *note_twins(clip_list.clips, checksums)))
    key = store_key(clip_list, settings, checksums)
    path = store_folder(cache, clip_list.name, key)
    # A store appears by a rename, so what is there is whole; and a cache of others may be open for reading only.
    if refresh or not path.exists():
        try:
            with written_once(path, JOURNAL, anew=refresh) as folder:
                if folder and refresh:  # what an earlier preparation finished is not made again else
                    (folder / JOURNAL).unlink(missing_ok=True)
                if folder:
                    _build(folder, clip_list, settings, key, max_quarantine, workers, on_ray, progress)
        except OSError as error:
            raise UserError(
                f"{error.filename or cache}: {error.strerror}; choose another folder with --cache or RAYGAP_CACHE"
            ) from None
    quarantined = [LeftOut(**clip) for clip in Store.open(path).header["quarantined"]]
    _check_quarantine(quarantined, clip_list, max_quarantine)
    return path


def _build(
    folder: Path,
    clip_list: ClipList,
    settings: Prepare,
    key: str,
    max_quarantine: float,
    workers: int | None,
    on_ray: bool,
    progress: Callable[[int, int], None] | None,
) -> None:
    clips = clip_list.clips
    _check_quarantine(list(clip_list.left_out), clip_list, max_quarantine)
    if features := clip_list.features:
        writer = StoreWriter(folder, len(clips), settings, features)
        for row in range(len(clips)):
            writer.write(row, features.visual[row], features.audio[row])
        trained = np.array([clip.split == "train" for clip in clips])
        writer.finish(clip_list, key, features.statistics(trained), {})
        return
    reasons = {row: fault for row, clip in enumerate(clips) if (fault := _fault_of_files(clip))}
    _check_quarantine(_all_left_out(clip_list, reasons), clip_list, max_quarantine)
    _check_disk(folder, len(clips), settings)
    writer = StoreWriter(folder, len(clips), settings)
    decoded = _finished_rows(folder / JOURNAL, writer)
    left = [row for row in range(len(clips)) if row not in decoded and row not in reasons]
    if progress and decoded:
        progress(len(decoded), len(clips))
    if on_ray:
        decoding = decode_on_ray(clips, left, settings, writer, workers)
    else:
        decoding = decode_here(clips, left, settings, folder, workers or cpu_count())
    most = max_quarantine * (len(clips) + len(clip_list.left_out)) + GIVES_UP_AFTER
    # closing: an error ends the workers before their files are removed.
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal, closing(decoding) as results:
        for row, result in results:
            if isinstance(result, str):
                reasons[row] = result
                if len(reasons) + len(clip_list.left_out) > most:
                    break
            else:
                decoded[row] = result
                journal.write(json.dumps([row, *astuple(result)]) + "\n")
                journal.flush()
            if progress:
                progress(len(decoded) + len(reasons), len(clips))
    seen_all = len(decoded) + len(reasons) == len(clips)
    _check_quarantine(_all_left_out(clip_list, reasons), clip_list, max_quarantine, seen_all)
    _check_complete(clip_list, reasons)
    training = [decoded[row].sums for row, clip in enumerate(clips) if clip.split == "train" and row in decoded]
    seconds = {row: result.seconds for row, result in decoded.items()}
    sounds = {row: (result.sound_seconds, result.sound_note) for row, result in decoded.items()}
    made = any(clip.audio and is_spectrogram(clip.audio) for clip in clips)
    writer.finish(clip_list, key, _statistics(training, settings, made), reasons, seconds, sounds)
    (folder / JOURNAL).unlink()


def _fault_of_files(clip: Clip) -> str | None:
    try:
        check_files(clip)
    except BadClip as error:
        return str(error)
    return None


def _all_left_out(clip_list: ClipList, reasons: dict[int, str]) -> list[LeftOut]:
    return [*clip_list.left_out, *(LeftOut(clip_list.clips[row].id, reasons[row]) for row in sorted(reasons))]


def _finished_rows(journal: Path, writer: StoreWriter) -> dict[int, Decoded]:
    """The rows that a killed preparation has noted and whose content is whole; the others are taken off the journal."""
    finished: dict[int, Decoded] = {}
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True) if journal.exists() else []
    whole = []
    for line in lines:
        try:
            row, checksum, seconds, sums, *sound = json.loads(line)
        except ValueError:  # the line that was being written
            continue
        # A machine that lost its power may have kept the note but not the row.
        if line.endswith("\n") and writer.checksum(row) == checksum:
            finished[row] = Decoded(checksum, seconds, tuple(sums), *sound)
            whole.append(line)
    journal.write_text("".join(whole), encoding="utf-8")
    return finished


def _check_disk(folder: Path, count: int, settings: Prepare) -> None:
    needed = count * (math.prod(frames_shape(settings)) + 2 * math.prod(spectrogram_shape(settings)))
    needed += 1000 * count + 2**20  # tables
    needed -= sum(512 * file.stat().st_blocks for file in folder.iterdir())  # what a killed preparation has written
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent}: the store needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, "
            "choose another folder with --cache or RAYGAP_CACHE, or lower prepare.frames or prepare.frame_size"
        )


def _check_quarantine(
    quarantined: list[LeftOut], clip_list: ClipList, max_quarantine: float, seen_all: bool = True
) -> None:
    """Raise UserError, with a line for each kind of fault, if these are too many."""
    count = len(clip_list.clips) + len(clip_list.left_out)
    if len(quarantined) <= max_quarantine * count:
        return
    lines = [
        f"{'' if seen_all else 'at least '}{len(quarantined)} of {count} clips cannot be used, more than the allowed "
        f"share {max_quarantine:g}; mend or remove them, or raise --max-quarantine"
    ]
    for kind, those in by_reason(quarantined).items():
        details = {one.reason for one in those}
        named = [one.id if len(details) == 1 else one.id + one.reason.removeprefix(kind) for one in those[:NAMED]]
        more = f", and {len(those) - NAMED} more" if len(those) > NAMED else ""
        lines.append(f"  {len(those)} {details.pop() if len(details) == 1 else kind}: {', '.join(named)}{more}")
    raise UserError("\n".join(lines))


def _check_complete(clip_list: ClipList, reasons: dict[int, str]) -> None:
    """Raise UserError if quarantine has emptied a split, or a class in train."""
    left = [clip for row, clip in enumerate(clip_list.clips) if row not in reasons]
    first = "; ".join(f"{clip_list.clips[row].id}: {reason}" for row, reason in sorted(reasons.items())[:3])
    for split in SPLITS:
        if not any(clip.split == split for clip in left):
            raise UserError(f"no usable clip is left in split {split} ({first}); mend the clips or add others")
    for name in clip_list.class_names:
        if not any(clip.label == name and clip.split == "train" for clip in left):
            raise UserError(
                f"no usable clip of class {name!r} is left in train ({first}); mend the clips or add others"
            )


def _statistics(sums: list[tuple[float, ...]], settings: Prepare, made: bool) -> dict[str, Any]:
    """Mean and deviation by which training scales the spectrograms, and the frames (0..255) a channel.

    `made`: others have made the spectrograms, who published them scaled already where a recipe has constants.
    """
    total = np.array(sums).sum(axis=0)
    cells = math.prod(spectrogram_shape(settings)) * len(sums)
    pixels = math.prod(frames_shape(settings)[:3]) * len(sums)
    mean = total[[0, 2, 3, 4]] / [cells, pixels, pixels, pixels]
    squares = total[[1, 5, 6, 7]] / [cells, pixels, pixels, pixels]
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    deviation[deviation == 0] = 1.0  # a channel that never changes
    sound = {"spectrogram_mean": mean[0], "spectrogram_std": deviation[0]}
    if settings.sound_scaling == "audioset" and not made:
        sound = AUDIOSET
    elif settings.sound_scaling != "training":
        sound = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0}
    frames = {"frame_mean": mean[1:].tolist(), "frame_std": deviation[1:].tolist()}
    return sound | (IMAGENET if settings.frame_scaling == "imagenet" else frames)
