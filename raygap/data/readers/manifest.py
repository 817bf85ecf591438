"""Clips of one's own: a CSV file that lists media, labels and splits."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut
from raygap.data.readers.lists import BadLine, and_left_out, read_lines, read_text
from raygap.errors import UserError

REQUIRED = ("video", "label", "split")

_Line = tuple[int, Clip]


def read_manifest(root: Path, name: str = "manifest") -> ClipList:
    """Read `root`, a CSV file or a folder with manifest.csv; paths in it are relative to its folder.

    Columns: video, label, split (train, val or test); optional: audio (empty: the sound of the video file),
    start and end (seconds), id. Other columns are ignored. Class indices follow the sorted labels.

    Links are followed, wherever they lead. Faulty lines are left out, and so is the second of two that name the same
    media and times, or have the same id; and so are clips of classes that no training clip has.

    Raises UserError for a file that is no manifest, or of nothing but faulty lines, for an empty split and for a single
    class.
    """
    path = root / "manifest.csv" if root.is_dir() else root
    left_out: list[LeftOut] = []
    rows = [(line, (line, row)) for line, row in _read_rows(path)]
    lines = read_lines(path, rows, lambda row: (row[0], _read_clip(path.parent, row[1])), left_out)
    lines = _first_of_each(path, lines, _media, "repeated: the same media and times as", left_out)
    lines = _name_clips(lines, path.parent)
    lines = _first_of_each(path, lines, lambda clip: clip.id, "id taken: it is that of", left_out)
    lines = _of_trained_classes(path, lines, left_out)
    clips = tuple(clip for _, clip in lines)
    return ClipList(name, clips, _class_names(path, clips, left_out), path.parent, left_out=tuple(left_out))


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


def _read_clip(folder: Path, row: dict[str, str]) -> Clip:
    """The clip of one row, its id as given ("" if not). Raises BadLine."""

    def seconds(column: str) -> float | None:
        text = row.get(column, "")
        try:
            value = float(text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not 0 <= value < math.inf:
            raise BadLine(f"no time (seconds such as 2.5, or nothing): {column} {text!r}")
        return value

    def media(column: str) -> Path | None:
        text = row.get(column, "")
        if not text:
            return None
        path = Path(os.path.normpath(folder / text))
        # A mistake, not an attack: a whole path, or a link, may lead wherever the user has put the media.
        if not Path(text).is_absolute() and os.path.relpath(path, folder).split(os.sep)[0] == "..":
            raise BadLine(
                f"leads out of the manifest's folder (put that above its media, or give a whole path): {text}"
            )
        if not path.is_file():
            problem = "a folder" if path.is_dir() else "no such file"
            raise BadLine(f"{problem} (paths are relative to the manifest): {column} {text}")
        return path

    video, audio, start, end = media("video"), media("audio"), seconds("start"), seconds("end")
    if video is None:
        raise BadLine("no video: the column is empty")
    if not row["label"]:
        raise BadLine("no label: the column is empty")
    if row["split"] not in SPLITS:
        raise BadLine(f"unknown split (use train, val or test): {row['split']!r}")
    if end is not None and end <= (start or 0):
        raise BadLine(f"ends before it starts (times are in seconds): start {start or 0:g}, end {end:g}")
    return Clip(row.get("id", ""), video, audio, row["label"], row["split"], start, end)


def _media(clip: Clip) -> Hashable:
    return clip.video, clip.audio or clip.video, clip.start or 0.0, clip.end


def _first_of_each(
    path: Path, lines: list[_Line], same: Callable[[Clip], Hashable], reason: str, left_out: list[LeftOut]
) -> list[_Line]:
    """Keep the first of the lines whose clips have the same of something; `reason` ends with that line's number."""
    seen: dict[Hashable, int] = {}
    first = [seen.setdefault(same(clip), line) for line, clip in lines]
    repeats = [(line, earlier) for (line, _), earlier in zip(lines, first, strict=True) if line != earlier]
    left_out += [LeftOut(f"{path.name}, line {line}", f"{reason} line {earlier}") for line, earlier in repeats]
    return [(line, clip) for line, clip in lines if seen[same(clip)] == line]


def _name_clips(lines: list[_Line], folder: Path) -> list[_Line]:
    """Give clips without an id one made of their paths and times, whatever their place in the file."""
    names = []
    for _, clip in lines:
        name = Path(os.path.relpath(clip.video, folder)).as_posix()
        if clip.start is not None or clip.end is not None:
            name += f"@{clip.start or 0.0}-{'' if clip.end is None else clip.end}"
        names.append(name)
    count = Counter(names)
    named = []
    for (line, clip), name in zip(lines, names, strict=True):
        if count[name] > 1 and clip.audio:  # one picture with several sounds
            name += "+" + Path(os.path.relpath(clip.audio, folder)).as_posix()
        named.append((line, clip if clip.id else replace(clip, id=name)))
    return named


def _of_trained_classes(path: Path, lines: list[_Line], left_out: list[LeftOut]) -> list[_Line]:
    """Without the clips of classes that train has none of, as a mistyped label makes them."""
    trained = {clip.label for _, clip in lines if clip.split == "train"}
    if not trained:  # told below
        return lines
    left_out += [
        LeftOut(f"{path.name}, line {line}", f"no clip of this class for training: {clip.label!r}")
        for line, clip in lines
        if clip.label not in trained
    ]
    return [(line, clip) for line, clip in lines if clip.label in trained]


def _class_names(path: Path, clips: tuple[Clip, ...], left_out: list[LeftOut]) -> tuple[str, ...]:
    """The class names in index order. Raises UserError for an empty split or a single class."""
    for split in SPLITS:
        if not any(clip.split == split for clip in clips):
            hint = f"mark some clips as {split}{and_left_out(left_out)}"
            raise UserError(f"{path}: no clips with split {split}; {hint}")
    classes = sorted({clip.label for clip in clips})
    if len(classes) == 1:
        hint = f"a classifier needs two classes or more{and_left_out(left_out)}"
        raise UserError(f"{path}: every label is {classes[0]!r}; {hint}")
    return tuple(classes)
