"""What is shown while a task is at work: bars on a terminal, plain lines elsewhere, as in a job's log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich.progress as bars
from rich.console import Console

if TYPE_CHECKING:
    from raygap.tracking.seed_results import Reporter

LINE_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal for a bar."""


@dataclass(frozen=True)
class Progress:
    """Where it is shown; a quiet console shows nothing."""

    console: Console

    @property
    def shown(self) -> bool:
        """Whether anybody looks."""
        return not self.console.quiet

    def say(self, text: str) -> None:
        """A line of what is being done."""
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def note(self, notes: list[str]) -> None:
        """What a user may not expect, a line each."""
        for text in notes:
            self.say(f"note: {text}")

    @contextmanager
    def preparing(self) -> Iterator[Callable[[int, int], None] | None]:
        """Clips/s and time left; yields what `prepare` and `answers` report to.

        Without a terminal, as in a Slurm job's log, it is a plain line every LINE_EVERY seconds.
        """
        if not self.shown:
            yield None
            return
        if not self.console.is_terminal:
            yield _plain_lines(self.console)
            return
        columns = (
            bars.TextColumn("decoding"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[rate]}"),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self.console) as bar:
            task = bar.add_task("decoding", total=None, rate="", visible=False)

            def show(done: int, total: int) -> None:
                speed = bar.tasks[task].speed
                rate = f"{speed:.0f} clips/s" if speed else ""
                bar.update(task, completed=done, total=total, rate=rate, visible=True)

            yield show

    @contextmanager
    def seeds(self, seeds: int, epochs: int) -> "Iterator[Reporter]":
        """Of so many trainings; yields what `train_seeds` reports to."""
        from raygap.tracking.seed_results import seeds_bar

        if not self.shown:
            yield _nothing
            return
        with seeds_bar(self.console, seeds, epochs) as report:
            yield report


def _nothing(seed: int, metrics: dict[str, Any]) -> None:
    pass


def _plain_lines(console: Console) -> Callable[[int, int], None]:
    first: tuple[float, int] | None = None  # when, and what a resumed preparation had finished by then
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is None:
            first, last = (now, done), now
        if now - last < LINE_EVERY:
            return
        last = now
        rate = max(done - first[1], 1) / (now - first[0])
        left = f"{(total - done) / rate / 60:.0f} min left"
        console.print(f"decoding {done} of {total} clips, {rate:.1f} clips/s, {left}", highlight=False, soft_wrap=True)

    return show
