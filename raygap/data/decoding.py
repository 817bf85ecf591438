"""Decoding many clips at once: in processes on this machine, or in tasks on a Ray cluster."""

import functools
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from raygap.config import Prepare
from raygap.data.clips import Clip
from raygap.data.extracted import is_spectrogram, pictures_in
from raygap.data.media.files import BadClip, is_lfs_pointer, open_media
from raygap.data.media.pictures import decode_folder, decode_frames
from raygap.data.media.sound import decode_audio, decode_audio_file, hear, hear_file
from raygap.data.media.spectrogram import Spectrogram, longest_sound, read_spectrogram
from raygap.data.store import StoreWriter, row_checksum
from raygap.errors import UserError, first_line

HANGS_AFTER = 600.0
"""Seconds at one clip after which a decoder on this machine is taken to have stopped."""
ATTEMPTS_ON_RAY = 3
"""At a clip: a worker may crash by the clip, but also by its node, which is lost or short of memory."""


@dataclass(frozen=True)
class Decoded:
    """What is noted of a clip whose row is written."""

    checksum: int
    seconds: float
    """Length of the clip."""
    sums: tuple[float, ...]
    """Sum and sum of squares of the spectrogram; sums, then sums of squares, of the frames' three channels."""
    sound_seconds: float | None
    """Length of the clip's sound, also where it is longer than what is looked at; None if it is not known."""
    sound_note: str
    """What is to be said of how the sound was chosen; mostly nothing."""


class _Pictures(NamedTuple):
    """Frames and spectrogram of a clip, its length and that of its sound in seconds, and a note on the sound."""

    frames: np.ndarray
    spectrogram: np.ndarray
    seconds: float
    sound_seconds: float | None
    sound_note: str


def decode_clip(clip: Clip, settings: Prepare) -> _Pictures | str:
    """Frames and spectrogram of a clip, with what is noted of it, or the reason why it is bad."""
    start = clip.start or 0.0
    try:
        check_files(clip)
        if clip.end is not None and clip.end <= start:
            raise BadClip(f"ends at {clip.end:g} s, not after its start at {start:g} s")
        till = _heard_till(clip.start, clip.end, settings)
        if clip.video.is_dir():
            frames, seconds = decode_folder(clip.video, clip.start, clip.end, settings)
        with nullcontext() if clip.video.is_dir() else open_media(clip.video) as container:
            if clip.audio and is_spectrogram(clip.audio):
                sound, spectrogram = None, read_spectrogram(clip.audio, settings)
            elif clip.audio:
                sound = hear_file(clip.audio, clip.start, till, settings.sample_rate)
            else:
                sound = hear(container, clip.start, till, settings.sample_rate)
            if container:
                frames, seconds = decode_frames(container, clip.start, clip.end, settings)
        whole = settings.seconds if clip.end is None else clip.end - start  # where neither says how long it is
        if sound is None:
            return _Pictures(frames, spectrogram, seconds or whole, None, "")
        ends = sound.ends if sound.ends is None or clip.end is None else min(sound.ends, clip.end)
        sound_seconds = None if ends is None else ends - sound.begins
        seconds = seconds or sound_seconds or whole
        return _Pictures(frames, _spectrogram(settings)(sound.samples), seconds, sound_seconds, sound.note)
    except BadClip as error:
        return str(error)
    except ImportError:  # no fault of the clip's
        raise
    except Exception as error:  # no single file may end a preparation of hours
        return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Media:
    """What is to be decoded as far as it goes: a clip without a label, of which one modality may be missing."""

    id: str
    video: Path | None
    audio: Path | None
    """None: the sound of the video file."""
    start: float | None = None
    end: float | None = None
    features: "Parts | None" = None
    """What other networks have made of it, in place of the files."""


@dataclass(frozen=True)
class Parts:
    """What there is of a clip, as decode_clip gives it, and by modality why the rest is not there."""

    frames: np.ndarray | None
    spectrogram: np.ndarray | None
    reasons: dict[str, str]


def decode_parts(media: Media, settings: Prepare) -> Parts:
    """Frames and spectrogram of a clip, each if it can be decoded."""
    reasons: dict[str, str] = {}

    def attempt(modality: str, decode: Callable[[], np.ndarray]) -> np.ndarray | None:
        try:
            return decode()
        except BadClip as error:
            reasons[modality] = str(error)
        except Exception as error:  # one file may not end the work on many
            reasons[modality] = f"{type(error).__name__}: {error}"
        return None

    return Parts(
        attempt("visual", lambda: _frames(media, settings)),
        attempt("audio", lambda: _spectrogram_of(media, settings)),
        reasons,
    )


def _frames(media: Media, settings: Prepare) -> np.ndarray:
    if media.video is None:
        raise BadClip("no picture given")
    _check_file(media.video)
    if media.video.is_dir():
        return decode_folder(media.video, media.start, media.end, settings)[0]
    with open_media(media.video) as container:
        return decode_frames(container, media.start, media.end, settings)[0]


def _spectrogram_of(media: Media, settings: Prepare) -> np.ndarray:
    if media.audio and is_spectrogram(media.audio):
        _check_file(media.audio)
        return read_spectrogram(media.audio, settings)
    return _spectrogram(settings)(_sound(media, settings))


def _sound(media: Media, settings: Prepare) -> np.ndarray:
    till = _heard_till(media.start, media.end, settings)
    if media.audio:
        _check_file(media.audio)
        return decode_audio_file(media.audio, media.start, till, settings.sample_rate)
    _check_file(media.video)
    with open_media(media.video) as container:
        return decode_audio(container, media.start, till, settings.sample_rate)


def check_files(clip: Clip) -> None:
    """Raise BadClip for what is seen without decoding: a file is not there, or is not the medium."""
    for path in filter(None, (clip.video, clip.audio)):
        _check_file(path)
    if clip.audio is None and clip.video.is_dir():
        raise BadClip(f"no sound: beside a folder of frames it needs a file of its own ({clip.video.name})")


def _check_file(path: Path) -> None:
    if path.is_dir():
        if not pictures_in(path):
            raise BadClip(f"a folder without pictures: {path.name}")
    elif not path.is_file():
        raise BadClip(f"no such file: {path.name}")
    elif is_lfs_pointer(path):
        raise BadClip("a Git LFS pointer, not the recording (run `git lfs pull` in the data set's folder)")


def _heard_till(start: float | None, end: float | None, settings: Prepare) -> float:
    """Where the sound may be left off, in seconds: what comes later would be cut off."""
    heard = (start or 0.0) + longest_sound(settings) / settings.sample_rate
    return heard if end is None else min(end, heard)


@functools.cache
def _spectrogram(settings: Prepare) -> Spectrogram:
    return Spectrogram(settings)


def write_clip(row: int, result: _Pictures | str, writer: StoreWriter) -> Decoded | str:
    """Write what was decoded, unless it is the reason why a clip is bad. Raises OSError, as when the disk is full."""
    if isinstance(result, str):
        return result
    frames, sounds, seconds, sound_seconds, sound_note = result
    writer.write(row, frames, sounds)
    cells, lines = sounds.astype(np.float64), frames.reshape(-1, 3 * frames.shape[2])
    # Whole numbers, summed line by line, then a channel: a sixth of the time that floats take.
    numbers = lines, np.square(lines, dtype=np.uint16)
    totals = [part.sum(axis=0, dtype=np.uint32).reshape(-1, 3).sum(axis=0) for part in numbers]
    # Not cells @ cells: in every worker BLAS would start a thread for each core, and they would wait for each other.
    sums = cells.sum(), (cells**2).sum(), *totals[0], *totals[1]
    sums = tuple(map(float, sums))
    return Decoded(row_checksum(frames, sounds), float(seconds), sums, sound_seconds, sound_note)


def decode_here(
    clips: tuple[Clip, ...], rows: Iterable[int], settings: Prepare, folder: Path, workers: int
) -> Generator[tuple[int, Decoded | str], None, None]:
    """Decode these rows into the arrays in `folder`; yields each as it comes, with the reason if the clip is bad."""
    return in_processes(functools.partial(_decode_and_write, folder, len(clips), settings), clips, rows, workers)


def _decode_and_write(folder: Path, count: int, settings: Prepare) -> Callable[[int, Clip], Decoded | str]:
    writer = StoreWriter(folder, count, settings)
    return lambda row, clip: write_clip(row, decode_clip(clip, settings), writer)


@contextmanager
def _without_main() -> Iterator[None]:
    """Have processes that are started here not run the caller's script again, as multiprocessing would.

    A script that prepares at its top level, as notebooks and short examples do, would wait in each worker for itself.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def in_processes(
    prepare: Callable[[], Callable[[int, Any], Any]], items: Sequence[Any], rows: Iterable[int], workers: int
) -> Generator[tuple[int, Any], None, None]:
    """Work on `items[row]` for each of these rows in processes on this machine; yields row and result as they come.

    Each worker calls `prepare` once, for the function of row and item that it then applies; an OSError of that function
    is raised here. Where a decoder crashes, twice, the result is the sentence that says so, and likewise where it is
    killed for being HANGS_AFTER seconds at one item.

    The workers are processes of our own and not an executor, which would be lost as a whole, without saying at which
    item, when one crashes. One item is sent at a time: sending costs 0.1 ms, decoding tens of it.
    """
    # Not fork: the caller may run threads (progress bars, torch, Ray) whose locks a forked child would inherit, held.
    # Not spawn: each worker would spend seconds on importing torch. A fork server imports it once, without threads.
    # Sockets of processes lie there, and their names are bounded: Slurm's folder for a job may be too long a name.
    if len(os.fsencode(tempfile.gettempdir())) > 60:
        tempfile.tempdir = "/tmp"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchaudio", "torchaudio.compliance.kaldi", "scipy.signal"])
    waiting = deque(rows)
    busy: dict[Connection, tuple[multiprocessing.process.BaseProcess, int, float]] = {}
    crashed: set[int] = set()
    hung: set[int] = set()

    def send(connection: Connection, process: multiprocessing.process.BaseProcess) -> None:
        if not waiting:
            connection.close()  # which tells the worker to leave
            return
        row = waiting.popleft()
        busy[connection] = process, row, time.monotonic()
        with suppress(OSError):  # a worker that is gone shows as the end of its connection, below
            connection.send((row, items[row]))

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, prepare), daemon=True)
        with _without_main():
            process.start()
        theirs.close()
        send(ours, process)

    try:
        for _ in range(min(workers, len(waiting))):
            start()
        while busy:
            ready = cast(list[Connection], wait(list(busy), timeout=HANGS_AFTER / 10))
            for connection in busy.keys() - set(ready):  # not those that only wait for us to read their result
                process, row, since = busy[connection]
                if time.monotonic() - since > HANGS_AFTER:
                    process.kill()  # shows as the end of its connection
                    hung.add(row)
            for connection in ready:
                process, row, _ = busy.pop(connection)
                result = None
                with suppress(EOFError, OSError):
                    result = connection.recv()
                if result is None:
                    connection.close()
                    process.join()
                    if process.exitcode >= 0:  # no signal: a mistake of ours or of the caller, not of a decoder
                        raise RuntimeError(f"a worker stopped with exit code {process.exitcode}; see its message above")
                    if row in crashed:
                        how = f"crashed ({signal.Signals(-process.exitcode).name})"
                        yield row, f"the decoder {'hung' if row in hung else how}"
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
        for process, *_ in busy.values():
            process.terminate()
        for connection, (process, *_) in busy.items():
            process.join()
            connection.close()


def _work(connection: Connection, prepare: Callable[[], Callable[[int, Any], Any]]) -> None:
    """A worker: works on what it is sent, until the connection closes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    torch.set_num_threads(1)
    work = prepare()
    with suppress(EOFError):  # the end, also when the first process was killed
        while True:
            row, item = connection.recv()
            try:
                result = work(row, item)
            except OSError as error:
                result = error
            connection.send(result)


def decode_on_ray(
    clips: tuple[Clip, ...], rows: Iterable[int], settings: Prepare, writer: StoreWriter, workers: int | None = None
) -> Generator[tuple[int, Decoded | str], None, None]:
    """The same on the Ray cluster that this process is connected to, one task a clip, one CPU a task.

    `workers` is the number of tasks at a time (None: what keeps all CPUs busy). The media must lie under the same path
    on all nodes. The rows are written here: the store's folder may be local.

    Raises UserError if a node lacks a package.
    """
    import ray
    from ray.exceptions import RayError, WorkerCrashedError

    # Tried again here, and not by Ray, which would try forever where a node is short of memory.
    task = ray.remote(decode_clip).options(num_cpus=1, max_retries=0)
    # Two tasks a CPU, so that none waits for the next clip.
    at_once = workers or max(2 * int(ray.cluster_resources().get("CPU", 1)), 1)
    waiting = deque(rows)
    busy: dict[ray.ObjectRef, int] = {}
    failed: Counter[int] = Counter()
    try:
        while waiting or busy:
            while waiting and len(busy) < at_once:
                row = waiting.popleft()
                busy[task.remote(clips[row], settings)] = row
            [ready], _ = ray.wait(list(busy), num_returns=1)
            row = busy.pop(ready)
            try:
                result = ray.get(ready)
            except RayError as error:
                _check_packages(error)
                failed[row] += 1
                if failed[row] < ATTEMPTS_ON_RAY:
                    waiting.append(row)
                    continue
                cause = getattr(error, "cause", None) or error
                crash = isinstance(error, WorkerCrashedError)
                result = "the decoder crashed" if crash else f"{type(cause).__name__}: {first_line(cause)}"
            yield row, write_clip(row, result, writer)
    finally:
        for ready in busy:
            ray.cancel(ready)


def _check_packages(error: Exception) -> None:
    """Raise UserError if this is what becomes of a task on a node that lacks raygap or what it needs."""
    signs = ("No module named", "cannot import name", "failed to import")
    lines = [line.strip() for sign in signs for line in str(error).splitlines() if sign in line]
    if lines:
        raise UserError(
            f"a node of the Ray cluster cannot run raygap ({lines[0]}); install the same packages on every node"
        )
