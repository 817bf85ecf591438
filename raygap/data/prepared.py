"""Where stores are kept, and from where each data set was prepared last: commands without --root read it from there."""

import os
from dataclasses import asdict
from pathlib import Path

from raygap.data.clips import ReaderOptions
from raygap.data.notes import read_note, write_note
from raygap.plugins import file_name


def default_cache() -> Path:
    """Where stores are kept: the environment's RAYGAP_CACHE, else ~/.cache/raygap."""
    return Path(os.environ.get("RAYGAP_CACHE") or Path.home() / ".cache" / "raygap")


def note_source(cache: Path, dataset: str, root: Path, options: ReaderOptions) -> None:
    """Note where a data set lies and how it was read."""
    write_note(_note(cache, dataset), {"root": str(root.resolve()), "reader": asdict(options)})


def noted_source(cache: Path, dataset: str) -> tuple[Path, ReaderOptions] | None:
    """What note_source has noted; None if there is no note, or none that can be read."""
    try:
        content = read_note(_note(cache, dataset))
        return Path(content["root"]), ReaderOptions(**content["reader"])
    except (TypeError, KeyError):
        return None


def _note(cache: Path, dataset: str) -> Path:
    return cache / f"prepared-{file_name(dataset)}.json"
