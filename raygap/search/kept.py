"""A run folder and its copy in an object store: what is written here goes there, what trials leave there comes here."""

import tempfile
from pathlib import Path
from typing import Any

from ray.tune import Callback

from raygap.errors import UserError, first_line
from raygap.patience import patiently
from raygap.storage import Storage
from raygap.tracking.run_folder import JOURNAL, PLAN, TRIALS_FOLDER

ELSEWHERE = (TRIALS_FOLDER, "seeds", "shared", "tune")
"""Folders whose files are kept by those who write them, and Tune's own, which nobody misses."""


class KeepJournal(Callback):
    """Keeps the study whenever a trial starts or ends, before anything else is done about it."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder, self.storage = folder, storage

    def on_trial_start(self, **info: Any) -> None:
        """The study knows the trial's configuration."""
        patiently(lambda: self.storage.push(self.folder, [JOURNAL]))

    def on_trial_complete(self, **info: Any) -> None:
        """The study knows how the trial ended."""
        patiently(lambda: self.storage.push(self.folder, [JOURNAL]))

    def on_trial_error(self, **info: Any) -> None:
        """The study knows that the trial failed."""
        patiently(lambda: self.storage.push(self.folder, [JOURNAL]))


def check_storage(storage: Storage, new: bool) -> None:
    """Raise UserError if a run cannot be written there, or should be new and is not."""
    marker = ".writable"
    try:
        there = storage.files()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / marker).touch()
            storage.push(Path(folder), [marker])
        storage.delete([marker])
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are among the last two
        raise UserError(f"{storage.uri}: cannot be written ({first_line(error)})") from None
    if new and PLAN in there:
        raise UserError(f"{storage.uri}: holds a sweep already; continue it with --resume, or choose another --name")


def keep_run(folder: Path, storage: Storage) -> None:
    """Copy what the sweep's own process has written: plan, study, tables, report."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    names = [file.as_posix() for file in files if file.parts[0] not in ELSEWHERE and file.name != ".lock"]
    patiently(lambda: storage.push(folder, names))


def fetch_run(storage: Storage, folder: Path) -> None:
    """Bring a sweep, all but weights, to a machine that has not seen it, or where it has not been at work last.

    Raises UserError if it is neither there nor here.
    """
    plan, journal = folder / PLAN, folder / JOURNAL
    try:
        there = storage.files()
        if PLAN not in there and not plan.exists():
            raise UserError(f"{storage.uri}: holds no sweep ({PLAN} is missing)")
        # A study's file only grows: the longer one is the newer.
        known = journal.stat().st_size if journal.exists() else 0
        if not plan.exists() or (JOURNAL in there and there[JOURNAL].size > known):
            names = [name for name in there if not name.endswith((".pt", ".lock"))]
            storage.pull(folder, sorted(names, key=lambda name: name == PLAN))  # last: with it the folder is a run's
    except (OSError, ValueError, NotImplementedError) as error:  # as above
        raise UserError(f"{storage.uri}: cannot be read ({first_line(error)})") from None


def drop_unknown_trials(storage: Storage, known: int) -> None:
    """Delete the files of trials that the study does not know: it was kept last before they began."""
    trials = storage.at(TRIALS_FOLDER)

    def drop() -> None:
        trials.delete([name for name in trials.files() if int(name.partition("/")[0]) >= known])

    patiently(drop)
