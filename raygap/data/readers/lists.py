"""What the readers of published data sets share: list files, repeats, overlaps, validation, class names."""

import csv
import difflib
import hashlib
import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar

from raygap.data.clips import SPLITS, Clip, LeftOut, Split
from raygap.errors import UserError

# A ninth of train: with the official split of CREMA-D, about as many clips as its test split has.
VAL_SHARE = 1 / 9

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What lists and folders call the splits, in lower case. Not eval: some mean validation by it, others test."""
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
BLANK = {" ": "blank"}
MEDIA_ENDINGS = (".wav", ".flv", ".mp4", ".mkv", ".webm", ".avi")
"""That lists may give a clip's name with."""

Fields = TypeVar("Fields")
Read = TypeVar("Read")


class BadLine(Exception):
    """A line that names no clip. The message is the reason why, without file and line."""


@dataclass(frozen=True)
class Entry:
    """One row of a list: a clip before its files are looked up."""

    id: str
    label: str
    split: Split
    start: float | None = None
    end: float | None = None


def read_text(path: Path) -> str:
    """A text file, without the byte order mark that spreadsheets write. Raises UserError naming the file."""
    try:
        # utf-8-sig: the mark would become part of the first field.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save it in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class Table:
    """A list with separated columns."""

    columns: list[str]
    """Their names, in lower case; empty if the list has no header."""
    header_line: int
    rows: list[tuple[int, list[str]]]
    """Line number and stripped fields of every line that is not blank, without the header."""
    separator: str

    def check(self, fields: list[str]) -> None:
        """Raise BadLine if there are more fields than columns: one of them has lost a part to the next."""
        if self.columns and len(fields) > len(self.columns) and any(fields[len(self.columns) :]):
            raise BadLine(
                f"{len(fields)} fields, the header has {len(self.columns)}; "
                f"quote a value with a {(SEPARATORS | BLANK)[self.separator]}"
            )

    def named(self, fields: list[str]) -> dict[str, str]:
        """The fields by column; those that a short line lacks are empty. Raises BadLine for too many."""
        self.check(fields)
        padded = fields + [""] * (len(self.columns) - len(fields))
        return dict(zip(self.columns, padded, strict=False))


def read_table(
    path: Path,
    is_header: Callable[[list[str]], bool] = lambda names: True,
    needs: str = "a line a clip",
    blanks: bool = False,
) -> Table:
    """A list whose columns are separated by commas, semicolons or tabs: by what its first line has most of.

    With `blanks`, for lists whose values have none in them, by blanks where the first line has nothing of these.

    `is_header` tells by the names in the first line, in lower case, whether they are names. Text comes in Unicode's
    composed form, whichever the file has. Raises UserError if the file cannot be read or has no lines; the message
    then says what it `needs`. So it does for a quote that is not closed, and for a column that comes twice.
    """
    text = unicodedata.normalize("NFC", read_text(path))
    first = next(filter(str.strip, io.StringIO(text, newline=None)), "")
    separator = max(SEPARATORS, key=first.count)
    if blanks and separator not in first and " " in first.strip():
        separator = " "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
    rows, line = [], 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append((line, [field.strip() for field in fields]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: not a table ({error}); check its quotes") from None
    if not rows:
        raise UserError(f"{path}: the file is empty; it needs {needs}")
    header_line, header = rows[0]
    columns = [name.lower() for name in header]
    if not is_header(columns):
        columns = []
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice:
        raise UserError(f"{path}, line {header_line}: column {twice!r} comes twice; keep one")
    rows = rows[1:] if columns else rows
    for line, fields in rows:
        # A quote that is not closed takes in what follows, up to the next one or to the end.
        if len(fields) != len(columns or header) and any(mark in field for field in fields for mark in "\r\n"):
            raise UserError(f"{path}, line {line}: a quoted value runs over several lines; close its quote")
    return Table(columns, header_line, rows, separator)


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a list without a header, as read_table gives them."""
    return read_table(path, lambda names: False).rows


def split_named(text: str) -> Split | None:
    """The split of this name, in whatever capitals; None if it is no name of a split."""
    return SPLIT_NAMES.get(text.strip().lower())


def read_lines(
    path: Path,
    rows: Iterable[tuple[int | str, Fields]],
    read: Callable[[Fields], Read | None],
    left_out: list[LeftOut],
    unit: str = "line",
) -> list[Read]:
    """What `read` makes of the rows, each with its line number; None, for a line that is none of ours, is passed over.

    Where a row is no line, `unit` is what it is called, and it comes with a name in place of the number.

    Lines for which it raises BadLine are added to `left_out`: one bad line of thousands stops nobody. Raises UserError
    if all are bad, for then this is not the right file.
    """
    found, faults = [], []
    for line, fields in rows:
        try:
            one = read(fields)
        except BadLine as fault:
            faults.append(LeftOut(f"{path.name}, {unit} {line}", str(fault)))
        else:
            found += [] if one is None else [one]
    if faults and not found:
        raise UserError(f"{path.parent / faults[0].id}: {faults[0].reason}; no {unit} of this file can be used")
    left_out += faults
    return found


def and_left_out(left_out: Sequence[LeftOut]) -> str:
    """To end a message with, where faulty lines may be what it comes from; empty if there are none."""
    return f" (faulty lines: {len(left_out)}, such as {left_out[0].id}: {left_out[0].reason})" if left_out else ""


def passed_over_lists(folder: Path, forms: Mapping[str, str]) -> str:
    """To end a message with, where no list of `forms` (name to what a line looks like) is there, but others are.

    Names one of them and the form that it is most like, by its ending and its name; empty if there are none.
    """
    endings = {".csv", ".txt", ".json", ".pkl"}
    there = sorted(file.name for file in folder.glob("*") if file.suffix.lower() in endings and file.name not in forms)
    if not there:
        return ""

    def likeness(pair: tuple[str, str]) -> tuple[float, bool]:
        name, form = pair
        return difflib.SequenceMatcher(None, name, form).ratio(), Path(name).suffix == Path(form).suffix

    name, form = max(product(there, forms), key=likeness)
    return f"; {name} is none that is read: the nearest is {form}, with lines like {forms[form]}"


def find_class(label: str, classes: Iterable[str]) -> str:
    """The class of this name, in whatever capitals. Raises BadLine if it is none of the data set's."""
    known = {name.casefold(): name for name in classes}
    if label.casefold() not in known:
        raise unknown_class(label, known.values())
    return known[label.casefold()]


def without_ending(name: str) -> str:
    """A clip's name without the ending of a media file."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in MEDIA_ENDINGS else name


def unknown_class(label: str, classes: Iterable[str]) -> BadLine:
    """For a label that is no class of the data set."""
    near = difflib.get_close_matches(label, list(classes), n=1)
    return BadLine(f"unknown class: {label!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))


def drop_repeats(entries: list[Entry], notes: list[str]) -> list[Entry]:
    """Keep the first of the entries that name the same clip in one split; what is dropped is noted."""
    kept = list({(entry.id, entry.split): entry for entry in reversed(entries)}.values())[::-1]
    for split in SPLITS:
        listed, left = (sum(entry.split == split for entry in some) for some in (entries, kept))
        if left < listed:
            labels = {(entry.id, entry.split): entry.label for entry in kept}
            others = sum(entry.split == split and entry.label != labels[entry.id, split] for entry in entries)
            notes.append(
                f"{split}: {listed} listed, {left} different clips; the first row of each repeated one is kept"
                + (f", also where another has another label ({others})" if others else "")
            )
    return kept


def drop_overlap(
    entries: list[Entry], keep: bool, notes: list[str], same: Callable[[Entry], str] = lambda entry: entry.id
) -> list[Entry]:
    """Leave out of train what stands in val or test too, and note it; `keep` leaves it in, under an id of its own.

    `same` tells what two entries of one clip have in common.
    """
    elsewhere = {split: {same(entry) for entry in entries if entry.split == split} for split in ("val", "test")}
    for split, others in elsewhere.items():
        shared = sorted({same(entry) for entry in entries if entry.split == "train"} & others)
        if shared:
            done = "kept in train (--keep-overlap)" if keep else "left out of train"
            names = ", ".join(shared[:10]) + (", ..." if len(shared) > 10 else "")
            notes.append(f"clips that stand in train and in {split}: {len(shared)}, {done}: {names}")
    overlap = elsewhere["val"] | elsewhere["test"]
    if keep:
        return [
            replace(entry, id=f"{entry.id}@train") if entry.split == "train" and same(entry) in overlap else entry
            for entry in entries
        ]
    return [entry for entry in entries if entry.split != "train" or same(entry) not in overlap]


def carve(entries: list[Entry], to: Split, share: float, group: Callable[[Entry], str] | None = None) -> list[Entry]:
    """Move about `share` of train to another split: of the clips of each class, or, with `group`, of whole groups.

    What is moved follows from the clips' ids (or the groups' names) alone: a clip more or less in the list moves
    hardly any other.
    """
    train = [entry for entry in entries if entry.split == "train"]
    if group:
        moved = set(_draw({group(entry) for entry in train}, to, share))
        chosen = {entry.id for entry in train if group(entry) in moved}
    else:
        by_class: dict[str, set[str]] = {}
        for entry in train:
            by_class.setdefault(entry.label, set()).add(entry.id)
        chosen = {name for names in by_class.values() for name in _draw(names, to, share)}
    return [replace(e, split=to) if e.split == "train" and e.id in chosen else e for e in entries]


def _draw(names: set[str], purpose: str, share: float) -> list[str]:
    """One name at least, but never all."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{purpose}/{name}".encode()).digest())
    return ranked[: min(max(round(len(names) * share), 1), len(names) - 1)]


def present_classes(
    where: Path, entries: Iterable[Entry | Clip], classes: Sequence[str], left_out: Sequence[LeftOut] = ()
) -> tuple[str, ...]:
    """Those of `classes` that the entries have, in that order; `left_out` are the lines that could not be read.

    Raises UserError for an empty split, fewer than two classes, or a class without a clip in train.
    """
    counts = Counter((entry.split, entry.label) for entry in entries)
    for split in SPLITS:
        if not any(counted == split for counted, _ in counts):
            hint = f"check that lists and media belong together{and_left_out(left_out)}"
            raise UserError(f"{where}: no clips for split {split}; {hint}")
    labels = {label for _, label in counts}
    if len(labels) < 2:
        raise UserError(f"{where}: every clip is of class {labels.pop()!r}; a classifier needs two classes or more")
    present = tuple(name for name in classes if name in labels)
    absent = [name for name in present if not counts["train", name]]
    if absent:
        hint = f"add some, or take the class out{and_left_out(left_out)}"
        raise UserError(f"{where}: no clip of class {absent[0]!r} for training; {hint}")
    return present
