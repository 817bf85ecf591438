"""CREMA-D: AudioWAV/<clip>.wav and VideoFlash/<clip>.flv, where <clip> is actor_sentence_emotion_level."""

import re
from pathlib import Path

from raygap.data.clips import Clip, ClipList, LeftOut, ReaderOptions, Split
from raygap.data.readers.lists import (
    VAL_SHARE,
    BadLine,
    Entry,
    Table,
    carve,
    drop_overlap,
    drop_repeats,
    present_classes,
    read_lines,
    read_table,
)
from raygap.errors import UserError

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
"""Neutral, happy, sad, fear, disgust, anger; in the order of OGM-GE's published code."""
AUDIO, VIDEO = "AudioWAV", "VideoFlash"
TEST_ACTORS = 0.15
"""Share of the actors that are tested on when there are no split files."""

_HEADER = {"label", "emotion", "class", "name", "clip", "file", "filename"}
"""A column of one of these names makes the first line a header."""
_NAME = re.compile(rf"(?P<actor>\d{{4}})_[A-Z]{{3}}_(?P<label>{'|'.join(CLASSES)})_[A-Z]{{1,2}}")


def read_cremad(root: Path, options: ReaderOptions) -> ClipList:
    """Read the folder that holds AudioWAV and VideoFlash.

    train.csv and test.csv (clip and emotion, with or without header and other columns), from the root or from
    `options.splits`, say what is trained and tested on; without them whole actors are held out. Validation is val.csv
    if it is there, else a ninth of train: class by class (`options.val` stratified, the default with split files), or
    whole actors.

    Lines that are not CREMA-D's are left out. Raises UserError for missing folders, a list without a line of CREMA-D's,
    and `--splits` without lists.
    """
    for folder, kind in ((AUDIO, ".wav"), (VIDEO, ".flv")):
        if not any(_NAME.fullmatch(file.stem) for file in (root / folder).glob(f"*{kind}")):
            raise UserError(f"{root}: no folder {folder} with {kind} files; --root names CREMA-D's own folder")
    notes: list[str] = []
    lists = Path(options.splits) if options.splits else root
    left_out: list[LeftOut] = []
    entries = _read_lists(lists, options.splits is not None, left_out)
    if entries:
        entries = drop_overlap(drop_repeats(entries, notes), False, notes)
        val = options.val or "stratified"
    else:
        names = sorted(file.stem for file in (root / VIDEO).glob("*.flv") if _NAME.fullmatch(file.stem))
        entries = carve([_entry(name, "train") for name in names], "test", TEST_ACTORS, _actor)
        notes.append(f"no train.csv and test.csv in {lists}: whole actors are held out for test")
        val = options.val or "actors"
    if options.val or not any(entry.split == "val" for entry in entries):
        # --val given: the clips of val.csv are training clips again, and validation is drawn as asked.
        entries = [_entry(entry.id, "train") if entry.split == "val" else entry for entry in entries]
        entries = carve(entries, "val", VAL_SHARE, _actor if val == "actors" else None)
        drawn = sum(entry.split == "val" for entry in entries)
        notes.append(f"validation: {drawn} clips drawn from train, {'whole actors' if val == 'actors' else val}")
    train, test = ({_actor(entry) for entry in entries if entry.split == split} for split in ("train", "test"))
    shared = len(train & test)
    if shared:
        notes.append(f"test has {shared} actors that train has too: the result holds for known speakers")
    return ClipList(
        "cremad",
        tuple(
            Clip(e.id, root / VIDEO / f"{e.id}.flv", root / AUDIO / f"{e.id}.wav", e.label, e.split) for e in entries
        ),
        present_classes(lists, entries, CLASSES, left_out),
        root,
        tuple(notes),
        tuple(left_out),
    )


def _read_lists(folder: Path, required: bool, left_out: list[LeftOut]) -> list[Entry]:
    """The entries of train.csv, test.csv and, if it is there, val.csv; none if neither of the first two is there."""
    train, test, val = (folder / name for name in ("train.csv", "test.csv", "val.csv"))
    if not required and not train.exists() and not test.exists():
        return []
    for path in (train, test):
        if not path.is_file():
            raise UserError(f"{path}: no such file; CREMA-D's splits are train.csv and test.csv")
    validation = _read_list(val, "val", left_out) if val.is_file() else []
    taken = {entry.id for entry in validation}
    # Published val.csv files hold a part of train.csv.
    training = [entry for entry in _read_list(train, "train", left_out) if entry.id not in taken]
    return training + validation + _read_list(test, "test", left_out)


def _read_list(path: Path, split: Split, left_out: list[LeftOut]) -> list[Entry]:
    table = read_table(path, lambda names: bool(_HEADER & set(names)))
    if not table.rows:
        raise UserError(f"{path}: no clips below the header; add one line a clip")
    return read_lines(path, table.rows, lambda fields: _read_line(table, fields, split), left_out)


def _read_line(table: Table, fields: list[str], split: Split) -> Entry:
    table.check(fields)
    # In whichever column it stands: pandas puts the row's number before it.
    name = next(filter(_NAME.fullmatch, fields), None)
    if name is None:
        raise BadLine(f"no clip of CREMA-D (they are named like 1001_IEO_NEU_XX): {','.join(fields)!r}")
    entry = _entry(name, split)
    if {field for field in fields if field in CLASSES} != {entry.label}:
        raise BadLine(f"another label than the name's, or none: {','.join(fields)!r}")
    return entry


def _entry(name: str, split: Split) -> Entry:
    return Entry(name, _NAME.fullmatch(name)["label"], split)


def _actor(entry: Entry) -> str:
    return entry.id[:4]
