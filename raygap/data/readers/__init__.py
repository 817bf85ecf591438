"""The data sets raygap can read. A new one is one new file and one line in READERS.

`package.module:function` names a reader from elsewhere, which raygap calls as its own: (root, options) -> ClipList.
"""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from raygap.data.clips import ClipList, ReaderOptions, fault_of
from raygap.data.exclusion import leave_out
from raygap.data.readers.ave import read_ave
from raygap.data.readers.cremad import read_cremad
from raygap.data.readers.features import read_features
from raygap.data.readers.kinetic_sound import read_kinetic_sound
from raygap.data.readers.manifest import read_manifest
from raygap.errors import UserError
from raygap.plugins import in_words, is_plugin, load_plugin


def _read_demo(root: Path | None, options: ReaderOptions) -> ClipList:
    from raygap.data.demo.clips import ensure_demo

    return read_manifest(ensure_demo(root), "demo")


def _read_own(
    dataset: str, read: Callable[[Path, ReaderOptions], ClipList], root: Path, options: ReaderOptions
) -> ClipList:
    """What a reader from elsewhere gives, under the name that its user knows. Raises UserError if it cannot be used."""
    what = f"--dataset {dataset}"
    try:
        clip_list = read(root, options)
    except UserError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{what}: fails on {root} ({in_words(error)})") from None
    if not isinstance(clip_list, ClipList):
        raise UserError(f"{what}: gives no raygap.data.clips.ClipList, but {clip_list!r:.80}")
    if fault := fault_of(clip_list):
        raise UserError(f"{what}: {fault}")
    return replace(clip_list, name=dataset)


@dataclass(frozen=True)
class Reader:
    """How one data set is read."""

    read: Callable[[Path, ReaderOptions], ClipList]
    root: str | None
    """What --root names; None: it may be left out."""
    takes: tuple[str, ...] = ()
    """The options it has a use for."""


READERS = {
    "manifest": Reader(lambda root, options: read_manifest(root), "a CSV file or a folder with manifest.csv"),
    "demo": Reader(_read_demo, None),
    "cremad": Reader(read_cremad, "the folder with AudioWAV and VideoFlash", ("--splits", "--val")),
    "ave": Reader(read_ave, "the folder with AVE/ and its lists", ("--splits", "--keep-overlap")),
    "features": Reader(read_features, "a file .npz, .parquet or .h5 of features, or a folder with clips.csv"),
    "kinetic_sound": Reader(read_kinetic_sound, "the folder of the videos", ("--splits", "--keep-overlap")),
}


def find_reader(dataset: str) -> Reader:
    """The reader of a data set. Raises UserError with the nearest name, or for what is no function."""
    if is_plugin(dataset):
        read = load_plugin(dataset, "--dataset")
        if not callable(read):
            raise UserError(f"--dataset {dataset}: not a function of (root, options) that gives a ClipList")
        options = tuple(ReaderOptions(splits="x", val="actors", keep_overlap=True).given())
        return Reader(partial(_read_own, dataset, read), "the file or folder that it reads", options)
    if dataset not in READERS:
        near = difflib.get_close_matches(dataset, READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(READERS)}"
        raise UserError(f"--dataset {dataset}: unknown data set; {hint}")
    return READERS[dataset]


def check_source(dataset: str, root: Path | None, options: ReaderOptions = ReaderOptions()) -> None:
    """Raise UserError for an unknown data set, a missing folder, or an option that the data set has no use for.

    Costs nothing, so that a command can tell before it does anything that does.
    """
    reader = find_reader(dataset)
    for option in options.given():
        if option not in (*reader.takes, "--exclude"):
            raise UserError(f"{option}: --dataset {dataset} has no use for it; leave it out")
    if reader.root and root is None:
        raise UserError(f"--dataset {dataset}: give --root, {reader.root}; later commands find it by themselves")
    if reader.root and not root.exists():
        raise UserError(f"--root {root}: no such file or folder; give the one that {dataset} lies in now")
    if options.splits and not Path(options.splits).is_dir():
        raise UserError(f"--splits {options.splits}: no such folder")
    if options.exclude and not Path(options.exclude).is_file():
        raise UserError(f"--exclude {options.exclude}: no such file")


def read_clips(
    dataset: str, root: Path | None, options: ReaderOptions = ReaderOptions(), *, quiet: bool = False
) -> ClipList:
    """The clips of a data set whose files lie under `root` (None only for demo: the default cache).

    What the reader left out or drew by itself is logged as a warning, so that no command passes over it in silence;
    `quiet` where it will be read once more.

    Raises UserError as check_source does, and for whatever is wrong with the data set itself.
    """
    check_source(dataset, root, options)
    clip_list = find_reader(dataset).read(root, options)
    notes = list(clip_list.notes)
    if clip_list.left_out:
        first = clip_list.left_out[0]
        notes.append(f"faulty lines left out: {len(clip_list.left_out)}; the first: {first.id}: {first.reason}")
    for note in () if quiet else notes:
        logging.getLogger("raygap").warning("%s: %s", dataset, note)
    return leave_out(clip_list, Path(options.exclude)) if options.exclude else clip_list
