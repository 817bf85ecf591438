"""Lengths of video files, noted in the cache: each file is opened once, not at every start of every command."""

import json
import os
from contextlib import suppress
from pathlib import Path

from raygap.data.media import file_seconds


class Durations:
    """What file_seconds says of files, remembered by path and size."""

    def __init__(self, note: Path) -> None:
        """`note` is the file to remember in; a damaged one is begun anew."""
        self._note = note
        self._known: dict[str, list[float]] = {}
        self._changed = False
        with suppress(OSError, ValueError):
            content = json.loads(note.read_text())
            self._known = content if isinstance(content, dict) else {}

    def seconds(self, path: Path) -> float:
        """0 if the file does not say, or cannot be read."""
        name, size = str(path.resolve()), path.stat().st_size
        known = self._known.get(name)
        if known is None or known[0] != size:
            known = self._known[name] = [size, file_seconds(path) or 0.0]
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Write what is new; a cache that is open for reading only stays as it is."""
        if not self._changed:
            return
        partial = self._note.with_name(f".{self._note.name}.{os.getpid()}")
        with suppress(OSError):
            self._note.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known))
            partial.replace(self._note)
