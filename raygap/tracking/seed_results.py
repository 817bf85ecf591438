"""Test results over seeds: their statistics, how they are printed, and the progress bar of the seeds in training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from raygap.tracking.whereabouts import Whereabouts

Reporter = Callable[[Any, dict[str, Any]], None]
"""Called with a seed (and a reference) and its newest metrics after every epoch; a TrainingsBar is told more."""
SeedRows = dict[int, dict[str, Any]]
"""Test metrics by seed."""
TEST_METRICS = tuple(f"test_{m}{s}" for m in ("", "audio_", "visual_") for s in ("accuracy", "macro_f1"))


@dataclass(frozen=True)
class Interval:
    """Mean, standard deviation (n - 1) and half width of the 95 % t-interval; both NaN for a single value."""

    mean: float
    std: float
    half_width: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """Of independent values, one a seed."""
        if len(values) < 2:
            return cls(float(np.mean(values)), float("nan"), float("nan"))
        import scipy  # not at the top: commands read this file before they know that they need it

        std = float(np.std(values, ddof=1))
        return cls(
            float(np.mean(values)), std, float(scipy.stats.t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
        )


@dataclass(frozen=True)
class Paired:
    """How far one configuration is ahead of another, by the seeds that both have."""

    gains: tuple[float, ...]
    """One a seed."""

    @property
    def interval(self) -> Interval:
        """Of the gains."""
        return Interval.of(list(self.gains))

    @property
    def clear(self) -> bool:
        """The interval leaves out 0."""
        return abs(self.interval.mean) > self.interval.half_width  # False of a single seed, which has none

    @property
    def wins(self) -> int:
        """Seeds on which it is ahead."""
        return sum(gain > 0 for gain in self.gains)

    @property
    def seeds(self) -> int:
        """Those that both have."""
        return len(self.gains)

    @classmethod
    def of(cls, rows: SeedRows, base: SeedRows, metric: str) -> "Paired | None":
        """Over the seeds on which both have the metric; None if there is none."""
        shared = [
            seed
            for seed in sorted(rows.keys() & base.keys())
            if None not in (rows[seed].get(metric), base[seed].get(metric))
        ]
        return cls(tuple(rows[seed][metric] - base[seed][metric] for seed in shared)) if shared else None


@dataclass(frozen=True)
class SeedResults:
    """`rows`: test metrics by seed; `failed`: the reason by seed that did not end; `protocol`: the configuration's."""

    rows: dict[int, dict[str, Any]]
    failed: dict[int, str]
    protocol: str = "validation"

    @property
    def doubt(self) -> str:
        """What must stand wherever these numbers do; empty for honest ones."""
        return "" if self.protocol == "validation" else "PAPER PROTOCOL: epochs chosen on TEST"

    @property
    def title(self) -> str:
        """What these numbers are."""
        return f"Test split, {self.doubt}" if self.doubt else "Test split"

    def interval(self, metric: str) -> Interval:
        """Over the seeds that ended."""
        return Interval.of([row[metric] for row in self.rows.values()])

    def table(self) -> list[list[Any]]:
        """Header, a row a seed, then mean, standard deviation and half width of the 95 % interval."""
        rows = [[seed, *(row[name] for name in TEST_METRICS)] for seed, row in self.rows.items()]
        intervals = [self.interval(name) for name in TEST_METRICS]
        rows.append(["mean", *(interval.mean for interval in intervals)])
        if len(self.rows) > 1:
            rows.append(["std", *(interval.std for interval in intervals)])
            rows.append(["95 % ±", *(interval.half_width for interval in intervals)])
        return [["seed", *(name.removeprefix("test_").replace("_", " ") for name in TEST_METRICS)], *rows]


class TrainingsBar:
    """How far trainings are: bars on a terminal, elsewhere a plain line at the end of each and from time to time."""

    def __init__(self, console: Console, title: str, epochs: int, name: Callable[[Any], str]) -> None:
        """`epochs`: those of all together; `name` is what a training of some key is called."""
        self.console, self.name = console, name
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(title, total=epochs)
        self.nearest = self.bar.add_task("", visible=False)
        self.running = Whereabouts()
        self.ended: dict[Any, int] = {}

    def start(self, key: Any, folder: Path, epochs: int) -> None:
        """A training of so many epochs starts, or starts again, in its folder."""
        self.bar.start()  # only now: until then the line belongs to the trials
        self.running.start(self.name(key), folder, epochs)

    def __call__(self, key: Any, metrics: dict[str, Any]) -> None:
        """An epoch has ended, or all of them had before."""
        self.bar.start()
        self.running.reached(self.name(key), metrics["epoch"])
        if "test_accuracy" in metrics:
            self.ended[key] = metrics["epoch"]
            self.end(key)
            if not self.console.is_terminal:
                self._print(f"{self.name(key)}: test accuracy {metrics['test_accuracy']:.3f}")
                self.running.said()
        self._show()

    def look(self) -> None:
        """Called about every second."""
        if self.console.is_terminal:
            if self.running.look():
                self._show()
        elif line := self.running.line():
            self._print(line)

    def end(self, key: Any) -> None:
        """A training has ended, or was given up."""
        self.running.end(self.name(key))

    def _show(self) -> None:
        self.bar.update(self.task, completed=sum(self.ended.values()) + self.running.epochs_done)
        self.running.show_furthest(self.bar, self.nearest)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def seeds_bar(console: Console, seeds: int, epochs: int) -> Iterator[TrainingsBar]:
    """What `train_seeds` reports to."""
    with trainings_bar(console, f"training {seeds} seeds", seeds * epochs, lambda seed: f"seed {seed}") as bar:
        yield bar


@contextmanager
def trainings_bar(console: Console, title: str, epochs: int, name: Callable[[Any], str]) -> Iterator[TrainingsBar]:
    """A TrainingsBar that leaves the terminal as it was."""
    bar = TrainingsBar(console, title, epochs, name)
    try:
        yield bar
    finally:
        bar.bar.stop()


def seeds_table(results: SeedResults) -> Table:
    """For the terminal."""
    header, *rows = results.table()
    table = Table(*header, box=SIMPLE)
    for row in rows:
        if row[0] == "mean":
            table.add_section()
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table


def terminal_table(rows: list[list[str]]) -> Table:
    """Any rows, the header first, for the terminal; no cell is broken."""
    table = Table(box=SIMPLE)
    for name in rows[0]:
        table.add_column(name.replace(" ", "\n", 1), no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    return table
