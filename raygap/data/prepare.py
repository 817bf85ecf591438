"""Making a store: every clip of a data set is decoded once, in parallel."""

import math
import multiprocessing
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from raygap.config import Prepare
from raygap.data.clips import SPLITS, Clip, ClipList
from raygap.data.media import BadClip, decode_audio, decode_frames, frames_shape
from raygap.data.spectrogram import Spectrogram, spectrogram_shape
from raygap.data.store import Store, StoreWriter, store_key, written_once
from raygap.errors import UserError

# sum, sum of squares of the spectrogram; sums, sums of squares of the three channels of the frames.
_Sums = tuple[float, ...]


def default_cache() -> Path:
    """Where stores are kept: the environment's RAYGAP_CACHE, else ~/.cache/raygap."""
    return Path(os.environ.get("RAYGAP_CACHE") or Path.home() / ".cache" / "raygap")


def prepare(
    clip_list: ClipList,
    settings: Prepare,
    cache: Path,
    *,
    max_quarantine: float = 0.05,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The folder under `cache` of the store made of these clips with these settings; it is made if it is not there.

    A clip that cannot be decoded is quarantined: left out, and named with its reason in the store. `max_quarantine` is
    the share of clips that may be; `workers` the number of processes (None: one for each core this process may use);
    `progress` is called with the clips done and the clips in all.

    Two processes that prepare the same store take turns, and the second finds it ready; what a killed one left behind
    is removed by the next.

    Raises UserError: too many bad clips, a split or a class left empty, too little disk, a damaged store in the way.
    """
    key = store_key(clip_list, settings)
    path = cache / f"{clip_list.name}-{key[:16]}"
    # A store appears by a rename, so what is there is whole; and a cache of others may be open for reading only.
    if not path.exists():
        try:
            with written_once(path) as folder:
                if folder:
                    _build(folder, clip_list, settings, key, max_quarantine, workers or _cores(), progress)
        except OSError as error:
            raise UserError(
                f"{error.filename or cache}: {error.strerror}; choose another folder with --cache or RAYGAP_CACHE"
            ) from None
    quarantined = {clip["id"]: clip["reason"] for clip in Store.open(path).header["quarantined"]}
    _check_quarantine(quarantined, len(clip_list.clips), max_quarantine)
    return path


def _cores() -> int:
    # Not cpu_count: a job on a shared machine may be confined to some of its cores.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build(
    folder: Path,
    clip_list: ClipList,
    settings: Prepare,
    key: str,
    max_quarantine: float,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    clips = clip_list.clips
    _check_disk(folder, len(clips), settings)
    writer = StoreWriter(folder, len(clips), settings)
    sums: dict[int, _Sums] = {}
    reasons: dict[int, str] = {}
    # closing: an error ends the workers before their files are removed.
    with closing(_decode_all(clips, settings, folder, min(workers, len(clips)))) as results:
        for done, (row, result) in enumerate(results, 1):
            if isinstance(result, str):
                reasons[row] = result
                _check_quarantine({clips[row].id: reasons[row] for row in reasons}, len(clips), max_quarantine)
            else:
                sums[row] = result
            if progress:
                progress(done, len(clips))
    _check_complete(clip_list, reasons)
    training = [sums[row] for row, clip in enumerate(clips) if clip.split == "train" and row in sums]
    writer.finish(clip_list, key, _statistics(training, settings), reasons)


def _check_disk(folder: Path, count: int, settings: Prepare) -> None:
    needed = count * (math.prod(frames_shape(settings)) + 2 * math.prod(spectrogram_shape(settings)))
    needed += 1000 * count + 2**20  # tables
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.parent}: the store needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, "
            "choose another folder with --cache or RAYGAP_CACHE, or lower prepare.frames or prepare.frame_size"
        )


def _check_quarantine(reasons: dict[str, str], count: int, max_quarantine: float) -> None:
    if len(reasons) > max_quarantine * count:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        more = "; ..." if len(reasons) > 3 else ""
        raise UserError(
            f"at least {len(reasons)} of {count} clips cannot be used ({first}{more}), more than the allowed share "
            f"{max_quarantine:g}; mend or remove them, or raise --max-quarantine"
        )


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


def _statistics(sums: list[_Sums], settings: Prepare) -> dict[str, Any]:
    """Mean and standard deviation of the spectrograms, and of the frames (0..255) a channel."""
    total = np.array(sums).sum(axis=0)
    cells = math.prod(spectrogram_shape(settings)) * len(sums)
    pixels = math.prod(frames_shape(settings)[:3]) * len(sums)
    mean = total[[0, 2, 3, 4]] / [cells, pixels, pixels, pixels]
    squares = total[[1, 5, 6, 7]] / [cells, pixels, pixels, pixels]
    deviation = np.sqrt(np.maximum(squares - mean**2, 0))
    deviation[deviation == 0] = 1.0  # a channel that never changes
    return {
        "spectrogram_mean": mean[0],
        "spectrogram_std": deviation[0],
        "frame_mean": mean[1:].tolist(),
        "frame_std": deviation[1:].tolist(),
    }


def _decode_all(
    clips: tuple[Clip, ...], settings: Prepare, folder: Path, workers: int
) -> Iterator[tuple[int, _Sums | str]]:
    """Decode every clip into the arrays in `folder`; yields (row, sums) or (row, reason why it is bad), as they come.

    The workers are processes of our own and not an executor, which would be lost as a whole, without saying at which
    clip, when a decoder crashes. One clip is sent at a time: sending costs 0.1 ms, decoding tens of it.
    """
    # Not fork: the caller may run threads (progress bars, torch, Ray) whose locks a forked child would inherit, held.
    # Not spawn: each worker would spend seconds on importing torch. A fork server imports it once, without threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchaudio"])
    waiting = deque(range(len(clips)))
    busy: dict[Connection, tuple[multiprocessing.Process, int]] = {}
    crashed: set[int] = set()

    def send(connection: Connection, process: multiprocessing.Process) -> None:
        if not waiting:
            connection.close()  # which tells the worker to leave
            return
        row = waiting.popleft()
        busy[connection] = process, row
        with suppress(OSError):  # a worker that is gone shows as the end of its connection, below
            connection.send((row, clips[row]))

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, folder, len(clips), settings), daemon=True)
        process.start()
        theirs.close()
        send(ours, process)

    try:
        for _ in range(workers):
            start()
        while busy:
            for connection in wait(list(busy)):
                process, row = busy.pop(connection)
                result = None
                with suppress(EOFError, OSError):
                    result = connection.recv()
                if result is None:
                    connection.close()
                    process.join()
                    if process.exitcode >= 0:  # no signal: a mistake of ours or of the caller, not of a decoder
                        raise RuntimeError(f"a worker stopped with exit code {process.exitcode}; see its message above")
                    if row in crashed:
                        yield row, f"the decoder crashed ({signal.Signals(-process.exitcode).name})"
                    else:  # once more: the machine may have been short of memory
                        crashed.add(row)
                        waiting.append(row)
                    if waiting:
                        start()
                elif isinstance(result, OSError):
                    raise result
                else:
                    send(connection, process)
                    yield row, result
    finally:
        for process, _ in busy.values():
            process.terminate()
        for connection, (process, _) in busy.items():
            process.join()
            connection.close()


def _work(connection: Connection, folder: Path, count: int, settings: Prepare) -> None:
    """A worker: decodes the clips it is sent, until the connection closes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    torch.set_num_threads(1)
    writer = StoreWriter(folder, count, settings)
    spectrogram = Spectrogram(settings)
    with suppress(EOFError):  # the end, also when the first process was killed
        while True:
            row, clip = connection.recv()
            connection.send(_decode(row, clip, settings, spectrogram, writer))


def _decode(
    row: int, clip: Clip, settings: Prepare, spectrogram: Spectrogram, writer: StoreWriter
) -> _Sums | str | OSError:
    """Write one clip into its row. Returns its sums, or the reason why it is bad, or why nothing can be written."""
    start = clip.start or 0.0
    heard = start + settings.seconds  # sound beyond this would be cut off
    try:
        frames = decode_frames(clip.video, clip.start, clip.end, settings.frames, settings.frame_size)
        sound = decode_audio(
            clip.audio or clip.video,
            clip.start,
            heard if clip.end is None else min(clip.end, heard),
            settings.sample_rate,
        )
        sounds = spectrogram(sound)
    except BadClip as error:
        return str(error)
    except Exception as error:  # no single file may end a preparation of hours
        return f"{type(error).__name__}: {error}"
    try:
        writer.write(row, frames, sounds)
    except OSError as error:
        return error
    cells, pixels = sounds.astype(np.float64), frames.reshape(-1, 3).astype(np.float64)
    return cells.sum(), (cells**2).sum(), *pixels.sum(axis=0), *(pixels**2).sum(axis=0)
