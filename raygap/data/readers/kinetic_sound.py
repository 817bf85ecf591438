"""KineticSound: the 31 classes of Kinetics-400 that are both seen and heard, as .mp4 files named by YouTube id; or what
others have extracted of them (data/extracted.py)."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut, ReaderOptions, Split
from raygap.data.extracted import Extracted, find_extracted
from raygap.data.notes import FileNotes
from raygap.data.prepared import default_cache
from raygap.data.readers.folders import media_files, media_files_below, note_passed_over
from raygap.data.readers.lists import (
    VAL_SHARE,
    BadLine,
    Entry,
    carve,
    drop_overlap,
    drop_repeats,
    passed_over_lists,
    present_classes,
    read_lines,
    read_rows,
    read_table,
    read_text,
    split_named,
    unknown_class,
    without_ending,
)
from raygap.errors import UserError

CLASSES = (
    "blowing_nose",
    "blowing_out_candles",
    "bowling",
    "chopping_wood",
    "dribbling_basketball",
    "laughing",
    "mowing_lawn",
    "playing_accordion",
    "playing_bagpipes",
    "playing_bass_guitar",
    "playing_clarinet",
    "playing_drums",
    "playing_guitar",
    "playing_harmonica",
    "playing_keyboard",
    "playing_organ",
    "playing_piano",
    "playing_saxophone",
    "playing_trombone",
    "playing_trumpet",
    "playing_violin",
    "playing_xylophone",
    "ripping_paper",
    "shoveling_snow",
    "shuffling_cards",
    "singing",
    "stomping_grapes",
    "tap_dancing",
    "tapping_guitar",
    "tapping_pen",
    "tickling",
)
"""In the order of the indices in the published lists."""
CLIP_SECONDS = 10.0
TEST_SHARE = 0.15
"""Of each class, where nothing says what is tested on: about what the published split has."""
VIDEO_FILES = (".mp4", ".mkv", ".webm")

# A YouTube id, and the second where the clip begins (and ends) in the video.
_NAME = re.compile(r"(?P<video>[\w-]{11})(?:_(?P<start>\d+)(?:_(?P<end>\d+))?)?", re.ASCII)


_FORMS = {
    "KS_train_val.json": '{"database": {"--4-0ihtnBU_000058_000068": {"subset": "training", "label": "bowling"}}}',
    **dict.fromkeys(("my_train.txt", "my_test.txt"), "--4-0ihtnBU_000058_000068,10,4"),
    **dict.fromkeys(("train.csv", "val.csv", "test.csv"), "youtube_id,label (a header), then --4-0ihtnBU,bowling"),
}
"""What a line of each list looks like."""
_Locate = Callable[[Entry], Clip | None]


def read_kinetic_sound(root: Path, options: ReaderOptions) -> ClipList:
    """Read the folder that the videos lie under, at any depth, named `id`, `id_start` or `id_start_end`.

    Where there is none, and there are lists, folders of frames with sounds or spectrograms, named so, are read.

    What is trained and tested on is said by the first of these that is found in `options.splits`, else in the root or
    its folder annotations: KS_train_val.json; my_train.txt and my_test.txt; train.csv, val.csv (or validate.csv) and
    test.csv of Kinetics-400, whose other classes are passed over. Without lists, folders <split>/<class>/ say it, or
    folders <class>/, of which test is drawn. Where no validation is given, a ninth of train is drawn, class by class;
    where Kinetics comes without a labelled test split, its validation is tested on.

    Listed videos without a file are left out and counted. A file that holds a whole video is cut to the listed time.

    Faulty lines are left out too. Raises UserError if neither lists nor folders are found, for a list of nothing but
    faulty lines, and for a class without any video.
    """
    from raygap.data.media.files import file_seconds  # imports PyAV

    notes: list[str] = []
    left_out: list[LeftOut] = []
    seconds = FileNotes(default_cache() / "kinetic_sound-seconds.json", lambda path: file_seconds(path) or 0.0)
    where, entries = _read_lists([Path(options.splits)] if options.splits else [root, root / "annotations"], left_out)
    locate: _Locate
    if entries:
        locate = _listed_videos(root, seconds, notes)
    elif options.splits:
        raise UserError(
            f"{where}: no KS_train_val.json, my_train.txt and my_test.txt, or train.csv in this folder"
            f"{passed_over_lists(where, _FORMS)}"
        )
    else:
        where = root
        entries, locate = _read_folders(root, notes)
    # Drawn before missing videos are left out: validation is the same for everybody.
    entries = _with_all_splits(drop_repeats(entries, notes), notes)
    entries = drop_overlap(entries, options.keep_overlap, notes, _video)
    found = [(entry, locate(entry)) for entry in entries]
    seconds.save()
    clips = [clip for _, clip in found if clip]
    _note_missing([entry for entry, clip in found if clip is None], entries, notes)
    without = {entry.label for entry in entries} - {clip.label for clip in clips}
    if without:
        more = f" (nor of {len(without) - 1} more classes)" if len(without) > 1 else ""
        raise UserError(
            f"{root}: no video of class {min(without)!r}{more} is there; download some, or use lists without the class"
        )
    classes = present_classes(where, clips, CLASSES, left_out)
    return ClipList("kinetic_sound", tuple(clips), classes, root, tuple(notes), tuple(left_out))


def _read_lists(folders: list[Path], left_out: list[LeftOut]) -> tuple[Path, list[Entry]]:
    """The folder that has lists, and its entries; the first folder and none if there are none."""
    for folder in folders:
        if (folder / "KS_train_val.json").is_file():
            return folder, _read_json(folder / "KS_train_val.json", left_out)
        indices = [(folder / f"my_{split}.txt", split) for split in SPLITS if split != "val"]
        if any(path.exists() for path, _ in indices):
            return folder, [entry for path, split in indices for entry in _read_index_list(path, split, left_out)]
        tables = _named_after_splits(folder, ".csv")
        entries = [entry for path, split in tables if path.is_file() for entry in _read_table(path, split, left_out)]
        if entries:
            return folder, entries
    return folders[0], []


def _named_after_splits(folder: Path, suffix: str = "") -> list[tuple[Path, Split]]:
    """What in a folder is named after a split (and ends in this suffix), with the split; in the splits' order."""
    paths = sorted(folder.glob(f"*{suffix}"))
    named = [(path, split) for path in paths if (split := split_named(path.name.removesuffix(suffix)))]
    return sorted(named, key=lambda found: SPLITS.index(found[1]))


def _read_json(path: Path, left_out: list[LeftOut]) -> list[Entry]:
    """{"database": {id: {"subset": training, validation or testing, "label": name}}}"""
    subsets: dict[str, Split] = {"training": "train", "validation": "val", "testing": "test"}

    def read(item: tuple[str, Any]) -> Entry:
        name, entry = item
        try:
            label, split = str(entry["label"]), subsets[entry["subset"]]
        except (KeyError, TypeError):
            raise BadLine(f"no label, or another subset than {', '.join(subsets)}: {name!r}") from None
        if _plain(label) not in CLASSES:
            raise unknown_class(label, CLASSES)
        return _entry(name, _plain(label), split)

    try:
        rows = [(name, (name, entry)) for name, entry in json.loads(read_text(path))["database"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the published list of KineticSound ({error}); get the file again") from None
    return read_lines(path, rows, read, left_out, "entry")


def _read_index_list(path: Path, split: Split, left_out: list[LeftOut]) -> list[Entry]:
    """id,10,index of the class"""

    def read(fields: list[str]) -> Entry:
        if len(fields) != 3 or not fields[2].isdecimal() or int(fields[2]) >= len(CLASSES):
            raise BadLine(f"not id,10,class with a class from 0 to 30: {','.join(fields)!r}")
        return _entry(fields[0], CLASSES[int(fields[2])], split)

    return read_lines(path, read_rows(path), read, left_out)


def _read_table(path: Path, split: Split, left_out: list[LeftOut]) -> list[Entry]:
    """Columns youtube_id and label, and perhaps time_start and time_end; rows of other classes are passed over."""
    table = read_table(path)
    if "youtube_id" not in table.columns:
        names = ", ".join(table.columns)
        raise UserError(
            f"{path}, line {table.header_line}: no column 'youtube_id' among {names}; get Kinetics' own file"
        )
    if "label" not in table.columns:  # the first release of Kinetics-400 kept the labels of its test split to itself
        return []

    def read(fields: list[str]) -> Entry | None:
        row = table.named(fields)
        label = _plain(row["label"])
        if label not in CLASSES:
            return None
        name, start, end = row["youtube_id"], row.get("time_start"), row.get("time_end")
        if start and end:
            try:
                name += f"_{int(float(start)):06d}_{int(float(end)):06d}"
            except (ValueError, OverflowError):
                raise BadLine(f"no seconds: time_start {start!r} and time_end {end!r}") from None
        return _entry(name, label, split)

    entries = read_lines(path, table.rows, read, left_out)
    if not entries:
        raise UserError(f"{path}: no row has a class of KineticSound; its classes are {', '.join(CLASSES)}")
    return entries


def _entry(name: str, label: str, split: Split) -> Entry:
    name = without_ending(name)
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadLine(f"no clip (11 letters of a YouTube id, _start, _end): {name!r}")
    if match["start"] is None:
        return Entry(name, label, split)
    start = float(match["start"])
    return Entry(name, label, split, start, float(match["end"]) if match["end"] else start + CLIP_SECONDS)


def _plain(label: str) -> str:
    return label.strip().lower().replace(" ", "_")


def _video(entry: Entry) -> str:
    """The YouTube id, whatever times follow it."""
    match = _NAME.fullmatch(entry.id.removesuffix("@train"))
    return match["video"] if match else entry.id


def _read_folders(root: Path, notes: list[str]) -> tuple[list[Entry], _Locate]:
    passed_over: list[str] = []
    folders = _named_after_splits(root)
    paths = {entry: path for folder, split in folders for entry, path in _videos(folder, split, passed_over)}
    entries = list(paths)
    if not paths:
        paths = dict(_videos(root, "train", passed_over))
        entries = carve(list(paths), "test", TEST_SHARE)
        drawn = sum(entry.split == "test" for entry in entries)
        notes.append(
            f"no lists and no folders of splits: {drawn} clips drawn for test, stratified; not a published split"
        )
    if not paths:
        raise UserError(
            f"{root}: no lists (KS_train_val.json; my_train.txt and my_test.txt; train.csv) and no folders "
            "train/<class> or <class> with videos; name the folder of the lists with --splits"
        )
    note_passed_over(passed_over, notes)
    by_name = {(entry.id, entry.label): path for entry, path in paths.items()}

    def locate(entry: Entry) -> Clip:
        path = by_name[entry.id.removesuffix("@train"), entry.label]
        return Clip(entry.id, path, None, entry.label, entry.split)

    return entries, locate


def _videos(folder: Path, split: Split, passed_over: list[str]) -> Iterator[tuple[Entry, Path]]:
    """Of the folders in this one that are named after classes."""
    for of_class in sorted(folder.iterdir()) if folder.is_dir() else ():
        if of_class.is_dir() and _plain(of_class.name) in CLASSES:
            for path in media_files(of_class, VIDEO_FILES, passed_over):
                yield Entry(path.stem, _plain(of_class.name), split), path


def _listed_videos(root: Path, seconds: FileNotes, notes: list[str]) -> _Locate:
    """Finds the file of an entry; among several of one video the one that begins where the entry does."""
    passed_over: list[str] = []
    files: dict[str, list[tuple[int | None, Path]]] = {}
    named = {path: path.stem for path in media_files_below(root, VIDEO_FILES, passed_over)}
    found = Extracted()
    if not any(map(_NAME.fullmatch, named.values())):
        found = find_extracted(root, lambda name: _NAME.fullmatch(name) is not None)
        named = {path: name for name, path in found.frames.items() if name in found.sounds}
        notes += [found.note(root)] if named else []
    for path, name in named.items():
        match = _NAME.fullmatch(name)
        if match:
            start = int(match["start"]) if match["start"] else None
            files.setdefault(match["video"], []).append((start, path))
    if not files:
        raise UserError(f"{root}: no video named by a YouTube id under this folder; --root names the videos' folder")
    note_passed_over(passed_over, notes)

    def locate(entry: Entry) -> Clip | None:
        fitting = [
            (start, path)
            for start, path in files.get(_video(entry), ())
            if start is None or entry.start is None or start == entry.start
        ]
        if not fitting:
            return None
        start, path = min(fitting, key=lambda file: (file[0] is None, str(file[1])))
        if found.frames:
            return Clip(entry.id, path, found.sounds[named[path]], entry.label, entry.split)
        # A name without times may stand for the clip or for the whole video: its length tells.
        whole = start is None and entry.start is not None and seconds.of(path) > 1.5 * CLIP_SECONDS
        begin, end = (entry.start, entry.end) if whole else (None, None)
        return Clip(entry.id, path, None, entry.label, entry.split, begin, end)

    return locate


def _with_all_splits(entries: list[Entry], notes: list[str]) -> list[Entry]:
    splits = {entry.split for entry in entries}
    if "test" not in splits and "val" in splits:
        entries = [replace(entry, split="test") if entry.split == "val" else entry for entry in entries]
        notes.append("no labelled test split: the validation split is tested on")
    if not any(entry.split == "val" for entry in entries):
        entries = carve(entries, "val", VAL_SHARE)
        drawn = sum(entry.split == "val" for entry in entries)
        notes.append(f"validation: {drawn} clips drawn from train, stratified")
    return entries


def _note_missing(missing: list[Entry], entries: list[Entry], notes: list[str]) -> None:
    if not missing:
        return
    counts = (f"{sum(e.split == s for e in missing)} of {sum(e.split == s for e in entries)} {s}" for s in SPLITS)
    notes.append(f"listed videos without a file, left out: {', '.join(counts)}")
    listed, absent = Counter(entry.label for entry in entries), Counter(entry.label for entry in missing)
    shares = sorted(((absent[name] / listed[name], name) for name in absent), reverse=True)
    notes.append("missing by class: " + ", ".join(f"{name} {share:.0%}" for share, name in shares))
