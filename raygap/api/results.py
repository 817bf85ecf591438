"""What the calls return, and the results of an earlier sweep read back from its folder."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from raygap.api.arguments import checked
from raygap.config import TrialConfig
from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.tracking.report.run import Absent, Run
from raygap.tracking.run_folder import PLAN, REPORT, trial_rows
from raygap.tracking.seed_results import TEST_METRICS, Interval, SeedResults
from raygap.tracking.worth import Worth


@dataclass(frozen=True, eq=False)
class TestResults:
    """A configuration on the test split, over seeds. Numbers are of test accuracy; see interval for the others."""

    __test__ = False  # no test of pytest's

    seeds: pd.DataFrame
    """A row a seed: best_epoch, best_val_accuracy and the test metrics."""
    failed: dict[int, str]
    """Why, by seed that did not end."""
    protocol: str
    """validation; or paper: chosen on test, and flattering."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return self.interval().mean

    @property
    def std(self) -> float:
        """Over the seeds, n - 1; NaN of a single one."""
        return self.interval().std

    @property
    def half_width(self) -> float:
        """Of the 95 % t-interval around the mean; NaN of a single seed."""
        return self.interval().half_width

    def interval(self, metric: str = "test_accuracy") -> Interval:
        """Mean, standard deviation and half width of a column. Raises UserError for a column that is not there."""
        if metric not in self.seeds:
            raise UserError(f"{metric}: no metric of the test; it has {', '.join(self.seeds.columns)}")
        if self.seeds.empty:
            return Interval(math.nan, math.nan, math.nan)
        return Interval.of([float(value) for value in self.seeds[metric]])

    @classmethod
    def of(cls, results: SeedResults) -> "TestResults":
        """Of what train_seeds returns, or a report has read."""
        rows = results.rows.values()
        columns = {name: [row.get(name) for row in rows] for name in ("best_epoch", "best_val_accuracy", *TEST_METRICS)}
        frame = pd.DataFrame(columns, index=pd.Index(list(results.rows), name="seed"))
        return cls(frame.astype({"best_epoch": int}), dict(results.failed), results.protocol)


@dataclass(frozen=True, eq=False)
class SweepRun:
    """A sweep and what it found, which is nothing yet where it is None."""

    folder: Path
    dataset: str
    study: optuna.Study
    """Optuna's, for its own tools; for reading only."""
    trials: pd.DataFrame
    """A row a trial, by number: state, best_val_accuracy, epochs, seconds, error, and the searched fields."""
    best: TrialConfig | None
    """The best configuration, chosen on validation (under protocol paper on test)."""
    best_trial: int | None
    """Its number."""
    best_value: float | None
    """Its validation accuracy (under protocol paper: test)."""
    test: TestResults | None
    """The best configuration over fresh seeds."""
    worth: Worth | None
    """The same beside its references: worth.sentence, worth.advice, worth.table(), worth.ahead_of(name)."""
    report: Path | None
    """report.html."""
    notes: tuple[str, ...] = ()
    """What one should know before believing the numbers."""

    @property
    def best_fields(self) -> dict[str, Any] | None:
        """The best configuration as best.yaml has it: nested, of plain values."""
        return to_mapping(self.best) if self.best else None


@dataclass(frozen=True, eq=False)
class Training:
    """A configuration trained on several seeds."""

    folder: Path
    config: TrialConfig
    test: TestResults
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class MethodsCompared:
    """Methods at equal budget on one data set."""

    folder: Path
    table: pd.DataFrame
    """A row a method, as comparison.csv: test metrics, differences to the baselines, rank, cost."""
    seeds: pd.DataFrame
    """A row a method and seed."""
    runs: dict[str, SweepRun]
    """Each method's sweep."""
    notes: tuple[str, ...] = ()


@checked
def load_run(folder: Path) -> SweepRun:
    """A sweep's results from its run folder, also of one that is unfinished or still at work.

    Raises UserError if the folder holds no sweep, or one of which no trial has started.
    """
    return read_run(folder)


def read_run(folder: Path, notes: tuple[str, ...] = ()) -> SweepRun:
    """As load_run, with what was noted on the way."""
    if not (folder / PLAN).exists():
        raise UserError(f"{folder}: holds no sweep ({PLAN} is missing)")
    run = Run(folder)
    try:
        study = run.study
    except Absent as absent:
        raise UserError(f"{folder}: {absent}") from None
    best = test = config = worth = None
    with suppress(Absent):
        best = run.best
        config = from_mapping(run.config, str(run.files / "config.yaml"))
        test = TestResults.of(run.test)
        worth = run.worth if run.worth.references else None
    header, rows = trial_rows(study)
    report = folder / REPORT
    return SweepRun(
        folder=folder,
        dataset=str(run.plan.get("dataset")),
        study=study,
        trials=pd.DataFrame(rows, columns=header).set_index("trial"),
        best=config,
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        test=test,
        worth=worth,
        report=report if report.exists() else None,
        notes=notes,
    )
