"""The study's file: opened, and mended where a kill or a disk broke it."""

import json
import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from raygap.errors import UserError
from raygap.patience import patiently
from raygap.tracking.run_folder import write_text

_CREATE_STUDY, _CREATE_TRIAL = 0, 4
"""Codes in the journal, by Optuna."""


def open_storage(journal: Path) -> JournalStorage:
    """The study's file, mended if a killed process left it half-written or locked, or a disk broke a line of it.

    The caller holds the run folder's own lock, so nobody else is writing. Raises UserError as mend_journal does.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    mend_journal(journal)
    # Not by the symbolic links of its default, which some file systems do not have.
    return JournalStorage(_Journal(str(journal), JournalFileOpenLock(str(journal))))


def mend_journal(journal: Path) -> str:
    """Take lines that cannot be read out of a study's file, and say so; what is half-written at its end goes unsaid.

    What follows counts trials by the lines that created them: where such a line is lost, an empty trial takes its
    place. Raises UserError where it cannot be told which were lost.
    """
    if not journal.exists():
        return ""
    content = journal.read_bytes()
    *lines, rest = content.split(b"\n")
    if rest:
        os.truncate(journal, len(content) - len(rest))
    entries = [_entry(line) for line in lines]
    broken = [number for number, entry in enumerate(entries) if entry is None]
    if not broken:
        return ""
    whole = [entry for entry in entries if entry]
    codes = [entry["op_code"] for entry in whole]
    lost = max((entry.get("trial_id", -1) + 1 for entry in whole), default=0) - codes.count(_CREATE_TRIAL)
    named = f"{journal}: {'lines' if len(broken) > 1 else 'line'} {', '.join(str(number + 1) for number in broken[:5])}"
    if _CREATE_STUDY not in codes or (lost > 0 and (lost != len(broken) or _CREATE_TRIAL not in codes)):
        raise UserError(f"{named} cannot be read, and what the others mean hangs on it; start another sweep")
    if lost > 0:
        first = next(entry for entry in whole if entry["op_code"] == _CREATE_TRIAL)
        # Not as it stands there: the first may be one that had waited for its turn, with fields of its own.
        created = {name: first[name] for name in ("op_code", "worker_id", "study_id")}
        created["datetime_start"] = datetime.now(UTC).isoformat()
        entries = [entry or created for entry in entries]
    journal.with_name(f"{journal.name}.broken").write_bytes(content)
    write_text(journal, "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries if entry))
    return f"{named} cannot be read and was left out; as it was, the file is kept beside it, with .broken at its end"


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("op_code"), int) else None


class _Journal(JournalFileBackend):
    """Waits for a file system that refuses, and leaves no half lines behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As JournalFileBackend."""
        size = patiently(lambda: os.stat(self._file_path).st_size)

        def append() -> None:
            os.truncate(self._file_path, size)  # what an earlier try has left
            try:
                super(_Journal, self).append_logs(logs)
            except RuntimeError as error:  # Optuna's lock is gone with its folder
                raise OSError(f"{self._file_path}: {error}") from None

        patiently(append)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """As JournalFileBackend."""
        yield from patiently(lambda: list(super(_Journal, self).read_logs(log_number_from)))
