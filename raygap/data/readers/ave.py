"""AVE: AVE/<YouTube id>.mp4, ten seconds each, and the stretch of each in which the event is seen and heard; or what
others have extracted of them (data/extracted.py)."""

import re
from pathlib import Path

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut, ReaderOptions, Split
from raygap.data.extracted import find_extracted
from raygap.data.readers.folders import is_leftover
from raygap.data.readers.hdf5 import read_integers
from raygap.data.readers.lists import (
    BadLine,
    Entry,
    drop_overlap,
    drop_repeats,
    find_class,
    passed_over_lists,
    present_classes,
    read_lines,
    read_text,
    without_ending,
)
from raygap.errors import UserError

CLASSES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
"""In the order in which testSet.txt first names them, as in PMR's published code."""
ANNOTATIONS = "Annotations.txt"

_FORMS = dict.fromkeys((f"{split}Set.txt" for split in SPLITS), "Church bell&---1_cCGK4M&good&0&10")
"""What a line of each list looks like."""
_ID = re.compile(r"[\w-]{11}", re.ASCII)


def read_ave(root: Path, options: ReaderOptions) -> ClipList:
    """Read the folder that holds AVE/, with trainSet.txt, valSet.txt and testSet.txt in it or in `options.splits`.

    Annotations.txt with train_order.h5, val_order.h5 and test_order.h5 will do as well. Of rows that name the same
    video in one split the first is kept. Videos that stand in train and in val or test are left out of train unless
    `options.keep_overlap`. Each is cut to its event. In place of AVE/ there may be folders of frames, and sounds or
    spectrograms, of whole clips or cut to their events before.

    Lines that are not AVE's are left out. Raises UserError for missing files and for a list without a line of AVE's.
    """
    notes: list[str] = []
    found = None
    if not any(not is_leftover(file.name) for file in (root / "AVE").glob("*.mp4")):
        found = find_extracted(root, lambda name: _ID.fullmatch(name) is not None)
        if not found.frames or not found.sounds:
            raise UserError(f"{root}: no folder AVE with .mp4 files; --root names the folder that holds it")
        notes.append(found.note(root))
    lists = Path(options.splits) if options.splits else root
    left_out: list[LeftOut] = []
    entries = drop_overlap(drop_repeats(_read_lists(lists, left_out), notes), options.keep_overlap, notes)
    classes = present_classes(lists, entries, CLASSES, left_out)

    def clip(entry: Entry) -> Clip:
        video, audio = entry.id.removesuffix("@train"), None
        file, times = root / "AVE" / f"{video}.mp4", (entry.start, entry.end)
        if found:
            file = found.frames.get(video, root / video)  # which is not there, and will be named
            audio = found.sounds.get(video, root / f"{video}.wav")
            times = (None, None) if found.cut(video) else times
        return Clip(entry.id, file, audio, entry.label, entry.split, *times)

    clips = tuple(map(clip, entries))
    return ClipList("ave", clips, classes, root, tuple(notes), tuple(left_out))


def _read_lists(folder: Path, left_out: list[LeftOut]) -> list[Entry]:
    def read(path: Path, split: Split, rows: list[tuple[int, str]]) -> list[Entry]:
        return read_lines(path, rows, lambda text: _read_line(text, split), left_out)

    files = {split: folder / f"{split}Set.txt" for split in SPLITS}
    if all(path.is_file() for path in files.values()):
        return [entry for split, path in files.items() for entry in read(path, split, _lines(path))]
    annotations = folder / ANNOTATIONS
    orders = {split: folder / f"{split}_order.h5" for split in SPLITS}
    for path in (annotations, *orders.values()):
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; AVE's splits are trainSet.txt, valSet.txt and testSet.txt "
                f"(class&id&quality&start&end), or {ANNOTATIONS} with train_order.h5, val_order.h5 and test_order.h5"
                f"{passed_over_lists(folder, _FORMS)}"
            )
    rows = _lines(annotations)
    entries = []
    for split, path in orders.items():
        order = read_integers(path).tolist()
        for row in order:
            if not 0 <= row < len(rows):
                raise UserError(f"{path}: names row {row} of {annotations}, which has {len(rows)}; get both again")
        entries += read(annotations, split, [rows[row] for row in order])
    return entries


def _lines(path: Path) -> list[tuple[int, str]]:
    """Line number and text of every line that is not blank, without a header."""
    lines = [(number, text.strip()) for number, text in enumerate(read_text(path).splitlines(), 1) if text.strip()]
    if lines and lines[0][1].startswith("Category&"):
        del lines[0]
    if not lines:
        raise UserError(f"{path}: the file is empty; it needs a line a clip")
    return lines


def _read_line(text: str, split: Split) -> Entry:
    fields = text.split("&")
    if len(fields) != 5:
        raise BadLine(f"not class&video&quality&start&end: {text!r}")
    label, name, _, start, end = (field.strip() for field in fields)
    label, name = find_class(label, CLASSES), without_ending(name)
    if not _ID.fullmatch(name):
        raise BadLine(f"no YouTube id (11 letters, digits, - and _): {name!r}")
    try:
        seconds = int(start), int(end)
    except ValueError:
        raise BadLine(f"not whole seconds: start {start!r} and end {end!r}") from None
    return Entry(name, label, split, float(seconds[0]), float(seconds[1]))
