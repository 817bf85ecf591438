"""Clips of one's own: a CSV file that lists media, labels and splits."""

import math
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut
from raygap.data.extracted import pictures_in
from raygap.data.readers.folders import FileFinder
from raygap.data.readers.lists import BadLine, Table, and_left_out, read_lines, read_table, split_named
from raygap.errors import UserError

REQUIRED = ("video", "label", "split")

_WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")

_Line = tuple[int, Clip]


def read_manifest(root: Path, name: str = "manifest") -> ClipList:
    """Read `root`, a CSV file or a folder with manifest.csv; paths in it are relative to its folder.

    Columns: video, label, split (train, val or test, or another name of these); optional: audio (empty: the sound of
    the video file), start and end (seconds), id. Other columns are ignored. Class indices follow the sorted labels:
    numbers, if all are, by their values. A video may be a still picture, or a folder of frames, and a sound a
    spectrogram (data/extracted.py).

    Links are followed, wherever they lead. Faulty lines are left out, and so is the second of two that name the same
    media and times, or have the same id; and so are clips of classes that no training clip has. Clips of one file in
    two splits, or at overlapping times under two labels, are kept and noted.

    Raises UserError for a file that is no manifest, or of nothing but faulty lines, for an empty split and for a single
    class.
    """
    path = root / "manifest.csv" if root.is_dir() else root
    left_out: list[LeftOut] = []
    table, finder = _read_table(path), FileFinder()
    rows = [(line, (line, fields)) for line, fields in table.rows]
    lines = read_lines(path, rows, lambda row: (row[0], _read_clip(path.parent, finder, table.named(row[1]))), left_out)
    lines = _first_of_each(path, lines, _media, _repeated, left_out)
    lines = _name_clips(lines, path.parent)
    lines = _first_of_each(
        path, lines, lambda clip: clip.id, lambda clip, earlier: f"id taken: it is that of line {earlier[0]}", left_out
    )
    lines = _of_trained_classes(path, lines, left_out)
    clips = tuple(clip for _, clip in lines)
    classes = _class_names(path, clips, left_out)
    return ClipList(name, clips, classes, path.parent, tuple(_note_shared_files(clips)), tuple(left_out))


def _read_table(path: Path) -> Table:
    if not path.exists():
        raise UserError(f"{path}: no such file; --root names a manifest, or a folder with manifest.csv")
    table = read_table(path, needs="the header video,audio,label,split")
    for column in REQUIRED:
        if column not in table.columns:
            raise UserError(
                f"{path}, line {table.header_line}: no column {column!r} among {', '.join(table.columns)}; "
                "the header needs video,label,split and may have audio,start,end,id"
            )
    if not table.rows:
        raise UserError(f"{path}: no clips below the header; add one line a clip")
    return table


def _read_clip(folder: Path, finder: FileFinder, row: dict[str, str]) -> Clip:
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
        path = finder.find(folder, text)
        # A mistake, not an attack: a whole path, or a link, may lead wherever the user has put the media.
        if not Path(text).is_absolute() and os.path.relpath(path, folder).split(os.sep)[0] == "..":
            raise BadLine(
                f"leads out of the manifest's folder (put that above its media, or give a whole path): {text}"
            )
        if column == "video" and os.path.isdir(path) and pictures_in(path):
            if not row.get("audio"):
                raise BadLine(f"a folder of frames has no sound: name a file in the column audio: {text}")
            return path
        if not os.path.isfile(path):  # Path.is_file would raise for a name too long
            problem = "a folder without pictures" if os.path.isdir(path) else "no such file"
            hint = "paths are relative to the manifest"
            if _WINDOWS_PATH.match(text):
                hint = "a path of Windows; write it as it is on this machine, or relative to the manifest"
            raise BadLine(f"{problem} ({hint}): {column} {text}")
        if path.name.startswith("._"):
            raise BadLine(f"macOS's notes on a file, not the file: {column} {text}")
        return path

    video, audio, start, end = media("video"), media("audio"), seconds("start"), seconds("end")
    if video is None:
        raise BadLine("no video: the column is empty")
    if not row["label"]:
        raise BadLine("no label: the column is empty")
    if len(row["label"].splitlines()) > 1:
        raise BadLine(f"label of several lines (is a quote not closed?): {row['label']!r}")
    split = split_named(row["split"])
    if split is None:
        raise BadLine(f"unknown split (use train, val or test): {row['split']!r}")
    if end is not None and end <= (start or 0):
        raise BadLine(f"ends before it starts (times are in seconds): start {start or 0:g}, end {end:g}")
    return Clip(row.get("id", ""), video, audio, row["label"], split, start, end)


def _media(clip: Clip) -> Hashable:
    # Two links may lead to one file.
    video = os.path.realpath(clip.video)
    return video, os.path.realpath(clip.audio) if clip.audio else video, clip.start or 0.0, clip.end


def _first_of_each(
    path: Path,
    lines: list[_Line],
    same: Callable[[Clip], Hashable],
    reason: Callable[[Clip, _Line], str],
    left_out: list[LeftOut],
) -> list[_Line]:
    """Keep the first of the lines whose clips have the same of something; `reason` says it of a later one."""
    first: dict[Hashable, _Line] = {}
    kept = []
    for line, clip in lines:
        earlier = first.setdefault(same(clip), (line, clip))
        if earlier[0] == line:
            kept.append((line, clip))
        else:
            left_out.append(LeftOut(f"{path.name}, line {line}", reason(clip, earlier)))
    return kept


def _repeated(clip: Clip, earlier: _Line) -> str:
    line, other = earlier
    differs = [
        f"{name} {theirs}" for name in ("label", "split") if (theirs := getattr(other, name)) != getattr(clip, name)
    ]
    also = f", which says {' and '.join(differs)}" if differs else ""
    return f"repeated: the same media and times as line {line}{also}"


def _note_shared_files(clips: tuple[Clip, ...]) -> list[str]:
    """Lines on clips that share a file, or seconds of it, with another split, or seconds with another label."""
    by_file: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        for file in {os.path.realpath(media) for media in (clip.video, clip.audio) if media}:
            by_file[file].append(clip)
    # Dictionaries as sets that keep their order.
    seconds: dict[str, None] = {}
    files: dict[str, None] = {}
    labels: dict[str, None] = {}
    for group in by_file.values():
        tested = [clip.id for clip in group if clip.split != "train"]
        overlapping = _overlapping(group, "split")
        seconds |= dict.fromkeys(name for name in tested if name in overlapping)
        if len({clip.split for clip in group}) > 1:
            files |= dict.fromkeys(tested)
        labels |= dict.fromkeys(_overlapping(group, "label"))
    notes = {
        "clips of val or test that share seconds of a file with another split": list(seconds),
        "clips of val or test that share a file, but no seconds, with another split": [
            name for name in files if name not in seconds
        ],
        "clips that share seconds of a file with another label": sorted(labels),
    }
    return [
        f"{what}: {len(names)}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
        for what, names in notes.items()
        if names
    ]


def _overlapping(group: list[Clip], field: str) -> set[str]:
    """Ids of those clips of one file that have seconds in common with one that differs in this field."""
    spans = [
        (clip.start or 0.0, math.inf if clip.end is None else clip.end, getattr(clip, field), clip.id) for clip in group
    ]
    backwards = [(-end, -start, value, name) for start, end, value, name in spans]
    found = set()
    for direction in (spans, backwards):  # each finds the later one of a pair
        reached: dict[str, float] = {}
        for start, end, value, name in sorted(direction):
            if any(until > start for other, until in reached.items() if other != value):
                found.add(name)
            reached[value] = max(reached.get(value, -math.inf), end)
    return found


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
        # The same id where the file's name is written in another form, as macOS does.
        named.append((line, clip if clip.id else replace(clip, id=unicodedata.normalize("NFC", name))))
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
    if all(label.isdecimal() for label in classes):
        classes.sort(key=int)
    if len(classes) == 1:
        hint = f"a classifier needs two classes or more{and_left_out(left_out)}"
        raise UserError(f"{path}: every label is {classes[0]!r}; {hint}")
    return tuple(classes)
