"""Test results over seeds: their statistics, how they are printed, and the progress bar of the seeds in training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts load when they are used
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

Reporter = Callable[[int, dict[str, Any]], None]
"""Called with a seed and its newest metrics after every epoch."""
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
        std = float(np.std(values, ddof=1))
        return cls(
            float(np.mean(values)), std, float(scipy.stats.t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
        )


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


@contextmanager
def seeds_bar(console: Console, seeds: int, epochs: int) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A progress bar over the epochs of all seeds; yields the callback that `train_seeds` reports to."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(f"training {seeds} seeds", total=seeds * epochs)
    reached: dict[int, int] = {}
    try:

        def show(seed: int, metrics: dict[str, Any]) -> None:
            bar.start()  # only now: until then the line belongs to the trials
            reached[seed] = metrics["epoch"]
            bar.update(task, completed=sum(reached.values()))
            if "test_accuracy" in metrics and not console.is_terminal:
                console.print(f"seed {seed}: test accuracy {metrics['test_accuracy']:.3f}", highlight=False)

        yield show
    finally:
        bar.stop()


def seeds_table(results: SeedResults) -> Table:
    """For the terminal."""
    header, *rows = results.table()
    table = Table(*header, box=SIMPLE)
    for row in rows:
        if row[0] == "mean":
            table.add_section()
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table
