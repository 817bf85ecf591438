"""Notes in the cache, as JSON: what later commands need not be told, or find out, again."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SETTLED_NS = 2_000_000_000
"""Age of a file at which no later change can bear the same time: file systems count in steps of up to two seconds."""


def write_note(note: Path, content: dict[str, Any]) -> None:
    """Write it whole or not at all; a cache that is open for reading only stays as it is."""
    partial = note.with_name(f".{note.name}.{os.getpid()}")
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(note)


def read_note(note: Path) -> dict[str, Any]:
    """Empty if there is none, or none that can be read."""
    with suppress(OSError, ValueError):
        content = json.loads(note.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


class FileNotes:
    """What was found out of files, noted by path, size and times of change: each is opened once, not at every start."""

    def __init__(self, note: Path | None, find: Callable[[Path], Any], *, anew: bool = False) -> None:
        """`find` gives a value for JSON. `note` is the file to keep them in (a damaged one is begun anew; None: kept
        nowhere); `anew` finds everything out again."""
        self._note, self._find, self._anew = note, find, anew
        self._known: dict[str, list[Any]] = read_note(note) if note else {}
        self._found: dict[str, list[Any]] = {}

    def of(self, path: Path) -> Any:
        """What `find` says of this file. Raises OSError if it is not there."""
        name, state = os.path.abspath(path), path.stat()
        # ctime too: a copy may bring its original's time of change along, but not this one.
        stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        known = self._found.get(name) or (None if self._anew else self._known.get(name))
        if known and known[:-1] == stamp:
            return known[-1]
        value = self._find(path)
        if time.time_ns() - max(stamp[1:]) > SETTLED_NS:
            self._found[name] = [*stamp, value]
        return value

    def save(self) -> None:
        """Write what is new."""
        if self._note and self._found:
            write_note(self._note, self._known | self._found)
