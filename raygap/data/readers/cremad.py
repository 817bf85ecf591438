"""CREMA-D: AudioWAV/<clip>.wav and VideoFlash/<clip>.flv, where <clip> is actor_sentence_emotion_level; or what others
have extracted of them (data/extracted.py)."""

import json
import re
from pathlib import Path
from typing import Any

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut, ReaderOptions, Split
from raygap.data.extracted import Extracted, find_extracted
from raygap.data.readers.lists import (
    VAL_SHARE,
    BadLine,
    Entry,
    Table,
    carve,
    drop_overlap,
    drop_repeats,
    passed_over_lists,
    present_classes,
    read_lines,
    read_table,
    read_text,
    without_ending,
)
from raygap.errors import UserError

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
"""Neutral, happy, sad, fear, disgust, anger; in the order of OGM-GE's published code."""
AUDIO, VIDEO = "AudioWAV", "VideoFlash"
TEST_ACTORS = 0.15
"""Share of the actors that are tested on when there are no split files."""

WORDS = {
    **dict.fromkeys(("neutral",), "NEU"),
    **dict.fromkeys(("happy", "happiness"), "HAP"),
    **dict.fromkeys(("sad", "sadness"), "SAD"),
    **dict.fromkeys(("fear", "fearful"), "FEA"),
    **dict.fromkeys(("disgust", "disgusted"), "DIS"),
    **dict.fromkeys(("anger", "angry"), "ANG"),
}
"""What lists call the classes, in lower case, beside their codes."""
TABLES = (("train.csv", "test.csv"), ("my_train_cre.txt", "my_test_cre.txt"))
"""Lists of train and test: OGM-GE's and most others', and MLA's, which is separated by blanks."""
FOLDS = ("data_splits_VALV.json", "data_splits_VALV.pkl")
"""MLB's folds, JSON under either name: {fold: {train, val or test: names}}."""

FORMS = {
    **dict.fromkeys(TABLES[0], "1001_IEO_NEU_XX,NEU"),
    **dict.fromkeys(TABLES[1], "1001_IEO_NEU_XX.flv Neutral"),
    FOLDS[0]: '{"1": {"train": ["1001_IEO_NEU_XX.wav"], "val": [], "test": []}}',
}
"""What a line of each list looks like, or the whole."""

_HEADER = {"label", "emotion", "class", "name", "clip", "file", "filename"}
"""A column of one of these names makes the first line a header."""
_NAME = re.compile(rf"(?P<actor>\d{{4}})_[A-Z]{{3}}_(?P<label>{'|'.join(CLASSES)})_[A-Z]{{1,2}}")


def read_cremad(root: Path, options: ReaderOptions) -> ClipList:
    """Read the folder that holds AudioWAV and VideoFlash, or in place of either what was extracted of it.

    train.csv and test.csv (clip and emotion, with or without header and other columns), from the root or from
    `options.splits`, say what is trained and tested on, or MLA's my_train_cre.txt and my_test_cre.txt, or the first of
    MLB's folds; without them whole actors are held out. Clips may have the ending of a file, emotions be codes or words
    in any case. Validation is val.csv, or the fold's, if it is there, else a ninth of train: class by class
    (`options.val` stratified, the default with split files), or whole actors.

    Lines that are not CREMA-D's are left out. Raises UserError for missing folders, a list without a line of CREMA-D's,
    and `--splits` without lists.
    """
    notes: list[str] = []
    videos, sounds = _locate(root, notes)
    lists = Path(options.splits) if options.splits else root
    left_out: list[LeftOut] = []
    entries = _read_lists(lists, options.splits is not None, left_out, notes)
    if entries:
        entries = drop_overlap(drop_repeats(entries, notes), False, notes)
        val = options.val or "stratified"
    else:
        entries = carve([_entry(name, "train") for name in sorted(videos)], "test", TEST_ACTORS, _actor)
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
            Clip(
                e.id,
                videos.get(e.id, root / VIDEO / f"{e.id}.flv"),  # which is not there, and will be named
                sounds.get(e.id, root / AUDIO / f"{e.id}.wav"),
                e.label,
                e.split,
            )
            for e in entries
        ),
        present_classes(lists, entries, CLASSES, left_out),
        root,
        tuple(notes),
        tuple(left_out),
    )


def _locate(root: Path, notes: list[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The videos, or folders of frames, and the sounds, by clip. Raises UserError if there are none."""
    media = {}
    for folder, kind in ((VIDEO, ".flv"), (AUDIO, ".wav")):
        files = {file.stem: file for file in (root / folder).glob(f"*{kind}") if _NAME.fullmatch(file.stem)}
        media[folder] = files
    if all(media.values()):
        return media[VIDEO], media[AUDIO]
    found = find_extracted(root, lambda name: _NAME.fullmatch(name) is not None)
    found = Extracted(media[VIDEO] or found.frames, media[AUDIO] or found.sounds)
    if not (found.frames and found.sounds):
        what = f"{VIDEO} with .flv files" if media[AUDIO] else f"{AUDIO} with .wav files"
        raise UserError(f"{root}: no folder {what}; --root names CREMA-D's own folder")
    notes.append(found.note(root))
    return media[VIDEO] or found.frames, found.sounds


def _read_lists(folder: Path, required: bool, left_out: list[LeftOut], notes: list[str]) -> list[Entry]:
    """The entries of the first lists that are there, and of val.csv beside train.csv; none if there are none."""
    names = next((pair for pair in TABLES if any((folder / name).exists() for name in pair)), None)
    folds = next((folder / name for name in FOLDS if (folder / name).is_file()), None)
    if names is None and folds:
        return _read_folds(folds, left_out, notes)
    if names is None and not required:
        return []
    train, test = (folder / name for name in names or TABLES[0])
    for path in (train, test):
        if not path.is_file():
            hint = "" if names else passed_over_lists(folder, FORMS)
            raise UserError(
                f"{path}: no such file; CREMA-D's splits are train.csv and test.csv, or {' and '.join(TABLES[1])}, "
                f"or {FOLDS[0]}{hint}"
            )
    val = folder / "val.csv"
    validation = _read_list(val, "val", left_out) if val.is_file() else []
    taken = {entry.id for entry in validation}
    # Published val.csv files hold a part of train.csv.
    training = [entry for entry in _read_list(train, "train", left_out) if entry.id not in taken]
    return training + validation + _read_list(test, "test", left_out)


def _read_list(path: Path, split: Split, left_out: list[LeftOut]) -> list[Entry]:
    table = read_table(path, lambda names: bool(_HEADER & set(names)), blanks=True)
    if not table.rows:
        raise UserError(f"{path}: no clips below the header; add one line a clip")
    return read_lines(path, table.rows, lambda fields: _read_line(table, fields, split), left_out)


def _read_line(table: Table, fields: list[str], split: Split) -> Entry:
    table.check(fields)
    # In whichever column it stands: pandas puts the row's number before it.
    name = next(filter(_NAME.fullmatch, map(without_ending, fields)), None)
    if name is None:
        raise BadLine(f"no clip of CREMA-D (they are named like 1001_IEO_NEU_XX): {','.join(fields)!r}")
    entry = _entry(name, split)
    labels = {field.upper() if field.upper() in CLASSES else WORDS.get(field.lower()) for field in fields}
    if labels - {None} != {entry.label}:
        raise BadLine(f"another label than the name's, or none: {','.join(fields)!r}")
    return entry


def _read_folds(path: Path, left_out: list[LeftOut], notes: list[str]) -> list[Entry]:
    """The first of the folds."""
    try:
        folds: dict[str, Any] = json.loads(read_text(path))
        first = min(folds, key=lambda name: (len(name), name))
        rows = [(name, (name, split)) for split in SPLITS for name in folds[first][split]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not MLB's folds of CREMA-D ({error}), which look like {FORMS[FOLDS[0]]}") from None

    def read(row: tuple[str, Split]) -> Entry:
        name = without_ending(str(row[0]).partition("-")[0])
        if not _NAME.fullmatch(name):
            raise BadLine(f"no clip of CREMA-D (they are named like 1001_IEO_NEU_XX): {row[0]!r}")
        return _entry(name, row[1])

    notes.append(f"{path.name}: fold {first} of {len(folds)} is read")
    return read_lines(path, rows, read, left_out, "entry")


def _entry(name: str, split: Split) -> Entry:
    return Entry(name, _NAME.fullmatch(name)["label"], split)


def _actor(entry: Entry) -> str:
    return entry.id[:4]
