"""Clips of one's own: a CSV file that lists media, labels and splits."""

import csv
import io
import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from raygap.data.clips import SPLITS, Clip, ClipList
from raygap.data.lists import read_text
from raygap.errors import UserError

REQUIRED = ("video", "label", "split")


def read_manifest(root: Path, name: str = "manifest") -> ClipList:
    """Read `root`, a CSV file or a folder with manifest.csv; paths in it are relative to its folder.

    Columns: video, label, split (train, val or test); optional: audio (empty: the sound of the video file),
    start and end (seconds), id. Other columns are ignored. Class indices follow the sorted labels.

    Raises UserError naming file, line and mend at the first kind of fault, with the number of lines that share it.
    """
    path = root / "manifest.csv" if root.is_dir() else root
    rows = _read_rows(path)
    faults = _Faults(path)
    clips = [clip for line, row in rows if (clip := _read_clip(path.parent, line, row, faults))]
    faults.raise_first()
    lines = [line for line, _ in rows]
    _check_repeats(clips, lines, faults)
    clips = _name_clips(clips, path.parent)
    _check_ids(clips, lines, faults)
    class_names = _check_classes(path, clips)
    return ClipList(name, tuple(clips), class_names, path.parent)


class _Faults:
    """Collects faults, so that a mistake repeated on every line is told once, with its count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._messages: dict[str, list[str]] = {}

    def add(self, kind: str, line: int, message: str) -> None:
        self._messages.setdefault(kind, []).append(f"{self._path}, line {line}: {message}")

    def raise_first(self) -> None:
        for messages in self._messages.values():
            more = f" ({len(messages) - 1} more such lines)" if len(messages) > 1 else ""
            raise UserError(messages[0] + more)


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and stripped fields of every row."""
    if not path.exists():
        raise UserError(f"{path}: no such file; --root names a manifest, or a folder with manifest.csv")
    text = read_text(path)
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = []
    try:
        header = [column.strip() for column in next(reader, [])]
        if not header:
            raise UserError(f"{path}: the file is empty; it needs the header video,audio,label,split")
        for column in REQUIRED:
            if column not in header:
                raise UserError(
                    f"{path}, line 1: no column {column!r} among {', '.join(header)}; "
                    "the header needs video,label,split and may have audio,start,end,id"
                )
        for fields in reader:
            if any(field.strip() for field in fields):
                # A short row leaves its last columns empty.
                padded = fields + [""] * (len(header) - len(fields))
                row = {column: field.strip() for column, field in zip(header, padded, strict=False)}
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    if not rows:
        raise UserError(f"{path}: no clips below the header; add one line a clip")
    return rows


def _read_clip(folder: Path, line: int, row: dict[str, str], faults: _Faults) -> Clip | None:
    """The clip of one row, its id as given ("" if not), or None after noting a fault."""

    def seconds(column: str) -> float | None:
        text = row.get(column, "")
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 <= value < math.inf:
            faults.add(column, line, f"{column} {text!r} is not a time; give seconds such as 2.5, or leave it empty")
            return None
        return value

    def media(column: str) -> Path | None:
        text = row.get(column, "")
        if not text:
            return None
        path = Path(os.path.normpath(folder / text))
        if not Path(text).is_absolute() and os.path.relpath(path, folder).split(os.sep)[0] == "..":
            mend = "put the manifest above its media, or give a whole path"
            faults.add("outside", line, f"{column} {text!r} leads out of the manifest's folder; {mend}")
        elif not path.is_file():
            problem = "is a folder" if path.is_dir() else "does not exist"
            faults.add(column, line, f"{column} {text!r} {problem}; paths are relative to {folder}")
        return path

    video, audio, start, end = media("video"), media("audio"), seconds("start"), seconds("end")
    if video is None:
        faults.add("no video", line, "video is empty; give the path of the clip's video file")
        return None
    if not row["label"]:
        faults.add("label", line, "label is empty; give the clip's class")
    if row["split"] not in SPLITS:
        faults.add("split", line, f"unknown split {row['split']!r}; use train, val or test")
        return None
    if end is not None and end <= (start or 0):
        faults.add("order", line, f"end {end:g} is not after start {start or 0:g}; times are in seconds")
    return Clip(row.get("id", ""), video, audio, row["label"], row["split"], start, end)


def _check_repeats(clips: list[Clip], lines: list[int], faults: _Faults) -> None:
    seen: dict[tuple, int] = {}
    for clip, line in zip(clips, lines, strict=True):
        first = seen.setdefault((clip.video, clip.audio or clip.video, clip.start or 0.0, clip.end), line)
        if first != line:
            faults.add("repeat", line, f"the same media and times as line {first}; keep one of them")
    faults.raise_first()


def _name_clips(clips: list[Clip], folder: Path) -> list[Clip]:
    """Give clips without an id one made of their paths and times, whatever their place in the file."""
    names = []
    for clip in clips:
        name = Path(os.path.relpath(clip.video, folder)).as_posix()
        if clip.start is not None or clip.end is not None:
            name += f"@{clip.start or 0.0}-{'' if clip.end is None else clip.end}"
        names.append(name)
    count = Counter(names)
    named = []
    for clip, name in zip(clips, names, strict=True):
        if count[name] > 1 and clip.audio:  # one picture with several sounds
            name += "+" + Path(os.path.relpath(clip.audio, folder)).as_posix()
        named.append(clip if clip.id else replace(clip, id=name))
    return named


def _check_ids(clips: list[Clip], lines: list[int], faults: _Faults) -> None:
    seen: dict[str, int] = {}
    for clip, line in zip(clips, lines, strict=True):
        first = seen.setdefault(clip.id, line)
        if first != line:
            faults.add("id", line, f"the id {clip.id!r} is taken by line {first}; ids must be unique")
    faults.raise_first()


def _check_classes(path: Path, clips: list[Clip]) -> tuple[str, ...]:
    """The class names in index order. Raises UserError for an empty split, one class, or one absent from train."""
    for split in SPLITS:
        if not any(clip.split == split for clip in clips):
            raise UserError(f"{path}: no clips with split {split}; mark some clips as {split}")
    classes = sorted({clip.label for clip in clips})
    if len(classes) == 1:
        raise UserError(f"{path}: every label is {classes[0]!r}; a classifier needs two classes or more")
    absent = [name for name in classes if not any(c.label == name and c.split == "train" for c in clips)]
    if absent:
        more = f" (nor of {len(absent) - 1} more classes)" if len(absent) > 1 else ""
        raise UserError(f"{path}: no clip of class {absent[0]!r}{more} has split train; add some, or remove the class")
    return tuple(classes)
