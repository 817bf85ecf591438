"""Notes in the cache, as JSON: what later commands need not be told, or find out, again."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


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
