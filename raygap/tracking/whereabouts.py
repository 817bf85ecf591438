"""How far trainings are within their epochs: told by those that train, looked up by the process that shows it.

It goes through the key-value store of Ray's head, which every process of a cluster reaches, also where machines share
no folder. Of a training there is one small entry, by its folder, which the next word replaces.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from raygap.pace import TELL_EVERY, Told

NAMESPACE = "raygap"
FIRST_LINE = 5.0
"""Seconds after the start of a training until a plain line tells of it, if nothing else has."""
LINE_EVERY = 30.0
"""Seconds between two plain lines thereafter."""
MOST_NAMED = 3
"""Trainings that a line names."""


def teller(folder: Path) -> Callable[[Told], None]:
    """What a training in this folder tells; nothing outside Ray, or while Ray's head is away."""
    from ray.experimental import internal_kv  # what shows results needs no Ray

    def tell(told: Told) -> None:
        with suppress(Exception):  # no word is worth a training
            if internal_kv._internal_kv_initialized():
                internal_kv._internal_kv_put(str(folder), json.dumps(asdict(told)), namespace=NAMESPACE)

    return tell


def look_up(folder: Path) -> Told | None:
    """What the training in this folder told last; None if it has not told anything."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        if found := internal_kv._internal_kv_get(str(folder), namespace=NAMESPACE):
            return Told(**json.loads(found))
    return None


def forget(folder: Path) -> None:
    """Drop what a training told that has ended."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_del(str(folder), namespace=NAMESPACE)


@dataclass
class _Running:
    folder: Path
    epochs: int
    """All that it will train."""
    since: float
    whole: int = 0
    """Epochs that have ended."""
    told: Told | None = None
    said: bool = False


class Whereabouts:
    """The trainings that run, how far each is, and when it is time for a plain line."""

    def __init__(self) -> None:
        self.running: dict[str, _Running] = {}
        self.line_at: float | None = None  # until somebody asks for lines, who may be busy with others before
        self.looked_at = -math.inf
        self.any_line = False

    def start(self, name: str, folder: Path, epochs: int) -> None:
        """A training of so many epochs starts, or starts again, in its folder."""
        forget(folder)
        self.running[name] = _Running(folder, epochs, time.monotonic())

    def reached(self, name: str, epoch: int) -> None:
        """An epoch has ended."""
        if name in self.running:
            self.running[name].whole, self.running[name].told = epoch, None

    def end(self, name: str) -> None:
        """A training has ended."""
        if ended := self.running.pop(name, None):
            forget(ended.folder)

    @property
    def epochs_done(self) -> float:
        """By all that run, together, with the parts of those at work."""
        return sum(map(self.part_of, self.running))

    def part_of(self, name: str) -> float:
        """Epochs that a training has done."""
        one = self.running[name]
        return one.whole + (one.told.step / one.told.steps if one.told else 0)

    def look(self) -> bool:
        """Look up how far they are; False if it is too early for another look."""
        if time.monotonic() - self.looked_at < TELL_EVERY:
            return False
        self.looked_at = time.monotonic()
        for one in self.running.values():
            told = look_up(one.folder)
            one.told = told if told and told.epoch > one.whole else None  # else of an epoch that has ended
        return True

    def said(self) -> None:
        """A line of another kind has just been written."""
        self.line_at, self.any_line = time.monotonic(), True

    def line(self) -> str | None:
        """A plain line on those that run, if it is time for one."""
        now = time.monotonic()
        self.line_at = now if self.line_at is None else self.line_at
        new = [name for name, one in self.running.items() if not one.said and now - one.since > FIRST_LINE]
        if not new and now - self.line_at < (LINE_EVERY if self.any_line else FIRST_LINE):
            return None
        self.said()
        self.look()
        named = [*new, *(name for name in self.running if name not in new)][:MOST_NAMED]
        for one in self.running.values():
            one.said = True
        more = len(self.running) - len(named)
        return "; ".join([*map(self.words, named), *([f"and {more} more"] if more else [])]) or "none is at work yet"

    def words(self, name: str) -> str:
        """Where a training is."""
        one = self.running[name]
        if one.whole >= one.epochs:
            return f"{name}: all {one.epochs} epochs trained"
        if one.told is None:
            return f"{name}: epoch {one.whole + 1} of {one.epochs}, no step yet"
        told = one.told
        left = "" if told.left is None else f", about {rough(told.left)} left"
        return f"{name}: epoch {told.epoch} of {one.epochs}, step {told.step} of {told.steps}{left}"

    def show_furthest(self, bars: Progress, task: TaskID) -> None:
        """Let a bar show the one furthest along of those whose steps are known, if any."""
        furthest = max((name for name, one in self.running.items() if one.told), key=self.part_of, default=None)
        if furthest is None:
            bars.update(task, visible=False)
        else:
            one = self.running[furthest]
            bars.update(task, description=self.words(furthest), visible=True)
            bars.update(task, completed=self.part_of(furthest), total=one.epochs)


def rough(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
