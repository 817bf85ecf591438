"""The packed store: decoded clips as memory-mapped arrays in one folder.

frames.npy          uint8 (N, T, H, W, 3), RGB
spectrograms.npy    float16 (N, F, S), natural logarithms
visual.npy          in place of frames.npy, float32: features as data/features.py has them
audio.npy           in place of spectrograms.npy, likewise
clips.parquet       id, label (class index), split, video, audio (relative to the root), start, end, seconds (length),
                    sound_seconds (length of the sound, empty if not known), sound_note (what is odd of its choice)
header.json         version, key, settings, classes, counts, statistics, quarantined clips, reader's notes, file sizes
quarantined.csv     the clips left out, with reasons
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import logging
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet

from raygap.called import command
from raygap.config import Prepare
from raygap.data.checksums import Checksums, media_checksums
from raygap.data.clips import SPLITS, Clip, ClipList, Split
from raygap.data.features import Features, numbers
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.errors import UserError
from raygap.locks import lock
from raygap.plugins import file_name

# Part of the key: raise it whenever decoding or the layout changes, and old stores are made anew.
STORE_VERSION = 6

FRAMES, SPECTROGRAMS, CLIPS = "frames.npy", "spectrograms.npy", "clips.parquet"
VISUAL, AUDIO = "visual.npy", "audio.npy"
HEADER, QUARANTINED = "header.json", "quarantined.csv"


class Store:
    """A finished store, open for reading. The arrays are memory-mapped: only rows that are read take memory."""

    def __init__(
        self, path: Path, header: dict[str, Any], frames: np.memmap, spectrograms: np.memmap, clips: pyarrow.Table
    ) -> None:
        self.path = path
        self.header = header
        """`statistics` holds spectrogram_mean, spectrogram_std and, in units of 0..255 a channel, frame_mean,
        frame_std, over the training clips; of features audio_mean, audio_std, visual_mean, visual_std, a number each.
        """
        self.features = "audio_mean" in header["statistics"]
        """Whether it holds features in place of media."""
        self.frames = frames
        """uint8 (N, T, H, W, 3), or features of the pictures."""
        self.spectrograms = spectrograms
        """float16 (N, F, S), or features of the sound."""
        self.clips = clips
        """Table of N rows: id, label, split, video, audio, start, end, seconds, sound_seconds, sound_note."""
        self.clip_ids: list[str] = clips["id"].to_pylist()
        self.labels: np.ndarray = clips["label"].to_numpy().astype(np.int64)
        """int64 (N,), indices into class_names."""
        self.class_names: tuple[str, ...] = tuple(header["class_names"])
        arrays = {"audio": spectrograms, "visual": frames}
        self.channels = {m: numbers(a) for m, a in arrays.items()} if self.features else {"audio": 1, "visual": 3}
        """Of a spectrogram, and of a frame; of features how many numbers they are."""
        self._splits = np.array(clips["split"].to_pylist())

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store in this folder. Raises UserError if it is missing, of another version, or damaged."""
        mend = f"delete the folder and call {command('prepare')} again"
        try:
            header = json.loads((path / HEADER).read_text(encoding="utf-8"))
            version = header["version"]
        except FileNotFoundError:
            raise UserError(f"{path}: no store here; make one with {command('prepare')}") from None
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(f"{path / HEADER}: cannot be read; {mend}") from None
        if version != STORE_VERSION:
            raise UserError(f"{path}: store version {version}, this raygap reads {STORE_VERSION}; {mend}")
        for name, size in header["files"].items():
            found = (path / name).stat().st_size if (path / name).is_file() else None
            if found != size:
                problem = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise UserError(f"{path}: {name} {problem}; {mend}")
        visual, audio = (VISUAL, AUDIO) if AUDIO in header["files"] else (FRAMES, SPECTROGRAMS)
        return cls(
            path,
            header,
            np.load(path / visual, mmap_mode="r"),
            np.load(path / audio, mmap_mode="r"),
            pyarrow.parquet.read_table(path / CLIPS),
        )

    def rows(self, split: Split) -> np.ndarray:
        """Rows of a split, ascending, int64 (n,)."""
        return np.flatnonzero(self._splits == split).astype(np.int64)


def store_key(clip_list: ClipList, settings: Prepare, checksums: Checksums | None = None) -> str:
    """sha256 over all that a store's content follows from: settings, and the clips with the checksums of their files.

    The same clips have the same key wherever they lie: neither the root nor the files' times or names are in it (a
    clip's id may be a path, relative to the root). `checksums` are media_checksums(clip_list), if they are known.
    """
    features = clip_list.features
    if checksums is None:
        checksums = {} if features else media_checksums(clip_list)
    content: dict[str, Any] = {
        "version": STORE_VERSION,
        "settings": features.digest if features else settings.model_dump(exclude={"input"}),
        "classes": clip_list.class_names,
        "clips": [
            (
                clip.id,
                None if features else checksums[clip.video],
                clip.audio and checksums[clip.audio],
                clip.label,
                clip.split,
                clip.start,
                clip.end,
            )
            for clip in clip_list.clips
        ],
    }
    if clip_list.left_out:  # the store names them
        content["left_out"] = [(line.id, line.reason) for line in clip_list.left_out]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def store_folder(cache: Path, dataset: str, key: str) -> Path:
    """Where a cache keeps the store of a data set with this key."""
    return cache / f"{file_name(dataset)}-{key[:16]}"


def relative(path: Path, root: Path) -> str:
    """The path as it is written into stores: a data set that was moved as a whole keeps its store."""
    return Path(os.path.relpath(path, root)).as_posix()


@contextlib.contextmanager
def written_once(path: Path, journal: str | None = None, *, anew: bool = False) -> Iterator[Path | None]:
    """Yields a folder, which becomes `path` when the block ends without an error.

    If `path` is there it yields None; or, with `anew`, the folder that then takes its place.

    Waits while another process is in this block for the same path; yields None if that one has made it. The folder
    holds what a killed process left behind; a UserError removes it, unless a file `journal` in it says what of it is
    finished and need not be made again. On a file system without locks each process has a folder of its own, unless
    there is a `journal`, and the first to end makes the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            locked = lock(file)
        except BlockingIOError:
            logging.getLogger("raygap").warning("another process is preparing %s; waiting for it", path)
            locked = lock(file, wait=True)
        if not (locked or journal):
            partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
        if path.exists() and not anew:
            yield None
            return
        partial.mkdir(exist_ok=True)
        try:
            yield partial
        except UserError:
            if not (journal and (partial / journal).exists()):
                shutil.rmtree(partial, ignore_errors=True)
            raise
        # Or a power cut could leave the name without the content.
        sync_files(partial)
        earlier = path.with_name(f".{path.name}.earlier")
        if anew and path.exists():
            path.rename(earlier)
        try:
            partial.rename(path)
        except OSError:
            if locked or not path.exists():
                raise
            shutil.rmtree(partial, ignore_errors=True)  # another process was faster
        _sync(path.parent)
        shutil.rmtree(earlier, ignore_errors=True)


def sync_files(folder: Path) -> None:
    """Wait until the files of a folder, and their names, are on the disk."""
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems know this of files only.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(handle)
    finally:
        os.close(handle)


class StoreWriter:
    """A store in the making. Several processes may hold one for the same folder and write different rows."""

    def __init__(self, folder: Path, count: int, settings: Prepare, features: Features | None = None) -> None:
        """Open the arrays for `count` clips, or for these features, in this folder, making the files if they are not
        there yet."""
        self.folder, self.settings = folder, settings
        if features:
            self._names = (VISUAL, AUDIO)
            self._frames = _RowFile(folder / VISUAL, features.visual.shape, np.float32)
            self._spectrograms = _RowFile(folder / AUDIO, features.audio.shape, np.float32)
            return
        self._names = (FRAMES, SPECTROGRAMS)
        self._frames = _RowFile(folder / FRAMES, (count, *frames_shape(settings)), np.uint8)
        self._spectrograms = _RowFile(folder / SPECTROGRAMS, (count, *spectrogram_shape(settings)), np.float16)

    def write(self, row: int, frames: np.ndarray, spectrogram: np.ndarray) -> None:
        """Write uint8 (T, H, W, 3) and float16 (F, S) of one clip, or its features.

        Raises OSError, for one when the disk is full.
        """
        self._frames.write(row, frames)
        self._spectrograms.write(row, spectrogram)

    def checksum(self, row: int) -> int:
        """CRC-32 of what the files hold for this row, as `row_checksum` gives it for what was written."""
        return zlib.crc32(self._spectrograms.read(row), zlib.crc32(self._frames.read(row)))

    def finish(
        self,
        clip_list: ClipList,
        key: str,
        statistics: dict[str, Any],
        quarantined: dict[int, str],
        seconds: Mapping[int, float] = MappingProxyType({}),
        sounds: Mapping[int, tuple[float | None, str]] = MappingProxyType({}),
    ) -> None:
        """Leave out the quarantined rows (row -> reason) and write the tables; the folder then is a store.

        `seconds` are the clips' lengths by row, `sounds` the lengths of their sounds and notes on these.
        """
        keep = np.ones(len(clip_list.clips), bool)
        keep[list(quarantined)] = False
        # The last rows move into the gaps: no more rows are copied than are left out.
        order = np.arange(keep.sum())
        order[~keep[: len(order)]] = len(order) + np.flatnonzero(keep[len(order) :])
        self._frames.finish(order)
        self._spectrograms.finish(order)
        clips = [clip_list.clips[row] for row in order]
        table = _clips_table(clips, clip_list)
        heard = [sounds.get(row, (None, "")) for row in order.tolist()]
        for name, values, kind in (
            ("seconds", [seconds.get(row) for row in order.tolist()], pyarrow.float64()),
            ("sound_seconds", [length for length, _ in heard], pyarrow.float64()),
            ("sound_note", [note for _, note in heard], pyarrow.string()),
        ):
            table = table.append_column(name, pyarrow.array(values, kind))
        pyarrow.parquet.write_table(table, self.folder / CLIPS)
        left_out = [asdict(line) for line in clip_list.left_out]
        left_out += [{"id": clip_list.clips[row].id, "reason": quarantined[row]} for row in sorted(quarantined)]
        with (self.folder / QUARANTINED).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ("id", "reason"))
            table.writeheader()
            table.writerows(left_out)
        header = {
            "version": STORE_VERSION,
            "key": key,
            "dataset": clip_list.name,
            "root": str(clip_list.root.resolve()),
            "settings": self.settings.model_dump(),
            "class_names": clip_list.class_names,
            "counts": {split: sum(clip.split == split for clip in clips) for split in SPLITS},
            "statistics": statistics,
            "quarantined": left_out,
            "notes": clip_list.notes,
            "files": {name: (self.folder / name).stat().st_size for name in (*self._names, CLIPS)},
        }
        (self.folder / HEADER).write_text(json.dumps(header, indent=1), encoding="utf-8")
        sync_files(self.folder)


def row_checksum(frames: np.ndarray, spectrogram: np.ndarray) -> int:
    """CRC-32 of a row."""
    return zlib.crc32(spectrogram.tobytes(), zlib.crc32(frames.tobytes()))


def _clips_table(clips: list[Clip], clip_list: ClipList) -> pyarrow.Table:
    index = {name: i for i, name in enumerate(clip_list.class_names)}
    return pyarrow.table(
        {
            "id": pyarrow.array([clip.id for clip in clips], pyarrow.string()),
            "label": pyarrow.array([index[clip.label] for clip in clips], pyarrow.int64()),
            "split": pyarrow.array([clip.split for clip in clips], pyarrow.string()),
            "video": pyarrow.array([relative(clip.video, clip_list.root) for clip in clips], pyarrow.string()),
            "audio": pyarrow.array(
                [clip.audio and relative(clip.audio, clip_list.root) for clip in clips], pyarrow.string()
            ),
            "start": pyarrow.array([clip.start for clip in clips], pyarrow.float64()),
            "end": pyarrow.array([clip.end for clip in clips], pyarrow.float64()),
        }
    )


class _RowFile:
    """An .npy file that is filled row by row, in any order.

    Rows are written with pwrite, not through a memory map: a full disk is then an OSError instead of a killed
    process, and several machines may write to one network file system.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """`shape` is that of the whole array, rows first."""
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._row_bytes = math.prod(shape[1:]) * self._dtype.itemsize
        self._offset = len(self._header(shape[0]))  # numpy pads headers, so that the count of rows may change
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)

    def write(self, row: int, values: np.ndarray) -> None:
        if values.shape != self._shape[1:] or values.dtype != self._dtype:
            raise ValueError(f"row of {values.dtype} {values.shape} for {self._dtype} {self._shape}")
        self._write(row, values.tobytes())

    def read(self, row: int) -> bytes:
        return os.pread(self._file.fileno(), self._row_bytes, self._offset + row * self._row_bytes)

    def finish(self, order: np.ndarray) -> None:
        """Keep the rows `order`, in that order (a row moves towards the front or stays), and close the file."""
        for row in np.flatnonzero(order != np.arange(len(order))).tolist():
            self._write(row, self.read(int(order[row])))
        os.pwrite(self._file.fileno(), self._header(len(order)), 0)
        self._file.truncate(self._offset + len(order) * self._row_bytes)
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, row: int, content: bytes) -> None:
        written = os.pwrite(self._file.fileno(), content, self._offset + row * self._row_bytes)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _header(self, rows: int) -> bytes:
        buffer = io.BytesIO()
        fields = {"descr": self._dtype.str, "fortran_order": False, "shape": (rows, *self._shape[1:])}
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()
