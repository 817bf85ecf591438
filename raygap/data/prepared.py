"""From where each data set was prepared last, noted in the cache: commands without --root read it from there."""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from raygap.data.clips import ReaderOptions


def note_source(cache: Path, dataset: str, root: Path, options: ReaderOptions) -> None:
    """Note where a data set lies and how it was read; a cache that is open for reading only stays as it is."""
    note = _note(cache, dataset)
    partial = note.with_name(f".{note.name}.{os.getpid()}")
    with suppress(OSError):
        partial.write_text(json.dumps({"root": str(root.resolve()), "reader": asdict(options)}, indent=1))
        partial.replace(note)


def noted_source(cache: Path, dataset: str) -> tuple[Path, ReaderOptions] | None:
    """What note_source has noted; None if there is no note, or none that can be read."""
    try:
        content = json.loads(_note(cache, dataset).read_text())
        return Path(content["root"]), ReaderOptions(**content["reader"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _note(cache: Path, dataset: str) -> Path:
    return cache / f"prepared-{dataset}.json"
