"""The data sets raygap can read. A new one is one new file and one line in READERS."""

import difflib
from collections.abc import Callable
from pathlib import Path

from raygap.data.clips import ClipList
from raygap.data.manifest import read_manifest
from raygap.errors import UserError


def _read_demo(root: Path | None) -> ClipList:
    from raygap.data.demo import ensure_demo

    return read_manifest(ensure_demo(root), "demo")


def _read_manifest(root: Path | None) -> ClipList:
    if root is None:
        raise UserError("--dataset manifest: give --root, a CSV file or a folder with manifest.csv")
    return read_manifest(root)


READERS: dict[str, Callable[[Path | None], ClipList]] = {
    "manifest": _read_manifest,
    "demo": _read_demo,
}


def read_clips(dataset: str, root: Path | None) -> ClipList:
    """The clips of a data set whose files lie under `root` (None only for demo: the default cache).

    Raises UserError for an unknown data set, a missing folder, and whatever is wrong with the data set itself.
    """
    if dataset not in READERS:
        near = difflib.get_close_matches(dataset, READERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(READERS)}"
        raise UserError(f"--dataset {dataset}: unknown data set; {hint}")
    if root is not None and dataset != "demo" and not root.exists():
        raise UserError(f"--root {root}: no such file or folder")
    return READERS[dataset](root)
