"""Lengths of video files, noted in the cache: each file is opened once, not at every start of every command."""

from pathlib import Path

from raygap.data.media.files import file_seconds
from raygap.data.notes import read_note, write_note


class Durations:
    """What file_seconds says of files, remembered by path and size."""

    def __init__(self, note: Path) -> None:
        """`note` is the file to remember in; a damaged one is begun anew."""
        self._note = note
        self._known: dict[str, list[float]] = read_note(note)
        self._changed = False

    def seconds(self, path: Path) -> float:
        """0 if the file does not say, or cannot be read."""
        name, size = str(path.resolve()), path.stat().st_size
        known = self._known.get(name)
        if known is None or known[0] != size:
            known = self._known[name] = [size, file_seconds(path) or 0.0]
            self._changed = True
        return known[1]

    def save(self) -> None:
        """Write what is new."""
        if self._changed:
            write_note(self._note, self._known)
