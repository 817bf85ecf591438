"""How far a training is within its epoch, and how long it has left: told while it trains, every few seconds."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

TELL_EVERY = 2.0
"""Seconds."""


@dataclass(frozen=True)
class Told:
    """`epoch` counts from 1; `step` of its `steps` are done. `left`: seconds of the whole training, None: not known."""

    epoch: int
    step: int
    steps: int
    left: float | None


class Pace:
    """Counts the steps of a training of so many epochs. Only what this process trains itself counts for the time."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.tell: Callable[[Told], None] = lambda told: None
        self._trained, self._seconds = 0, 0.0  # whole epochs, and what they took
        self._epoch, self._step, self._steps = 1, 0, 1
        self._began, self._told = 0.0, -math.inf

    def begin(self, epoch: int, steps: int) -> None:
        """An epoch begins, the first is 1."""
        self._epoch, self._step, self._steps, self._began = epoch, 0, max(steps, 1), time.monotonic()
        self._tell()

    def step(self) -> None:
        """Another step is done."""
        self._step += 1
        self._tell()

    def end(self) -> None:
        """The epoch is over, with its validation."""
        self._trained += 1
        self._seconds += time.monotonic() - self._began

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < TELL_EVERY:
            return
        self._told = now
        part = self._step / self._steps
        done = self._trained + part
        left = (self.epochs - self._epoch + 1 - part) * (self._seconds + now - self._began) / done if done else None
        self.tell(Told(self._epoch, self._step, self._steps, left))
