"""The live progress line of a sweep, and the bookkeeping after each trial."""

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raygap.storage import Storage
from raygap.tracking.run_folder import clean_trial, is_own, rank, trial_folder, write_trials
from raygap.tracking.whereabouts import Whereabouts, rough

TABLE_EVERY = 10.0
"""Seconds between two versions of trials.csv, which takes the longer to write the more trials there are."""


class ProgressLine(Callback):
    """On a terminal lines that keep changing; elsewhere a plain line whenever a trial ends, or has run for a while."""

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        planned: int,
        epochs: int,
        storage: Storage | None = None,
        *,
        number_of: Callable[[dict[str, Any]], int],
        quiet: bool = False,
        by_trials: bool = True,
        keep_top: int = 1,
    ) -> None:
        """`number_of` gives a trial's number, from the configuration that Tune has; `quiet` shows nothing; `by_trials`:
        the planned trials end the search, not seconds, and so say how long it takes. The `keep_top` best trials keep
        their weights.
        """
        self.study, self.folder, self.planned, self.epochs, self.storage = study, folder, planned, epochs, storage
        self.number_of, self.quiet, self.by_trials = number_of, quiet, by_trials
        self.running = Whereabouts()
        # Kept, not counted anew at every epoch: a study may have thousands of trials.
        self.ended: Counter[TrialState] = Counter()
        self.keep_top = keep_top
        self.top: list[FrozenTrial] = []
        """The best complete trials, the best first."""
        self.seen: set[int] = set()
        self.settled = 0
        self.table_written = -math.inf

    def setup(self, **info: Any) -> None:
        """Tune calls this once, before the first trial, and after it has pickled the callback: locks may come now."""
        self.console = Console(stderr=True, quiet=self.quiet)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("left"))
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=self.console, disable=self.quiet or not self.console.is_terminal
        )
        self.task = self.progress.add_task("starting Ray Tune", total=self.planned)
        self.nearest = self.progress.add_task("", visible=False)
        self._newly_ended()  # those of earlier runs of this sweep
        self.before, self.began = self.ended.total(), time.monotonic()
        self.progress.start()
        self._show()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial starts, or starts again."""
        number = self.number_of(trial.config)
        self.running.start(f"trial {number}", trial_folder(self.folder.resolve(), number), self.epochs)
        self._show()

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """An epoch ended."""
        self.running.reached(f"trial {self.number_of(trial.config)}", result["epoch"])
        self._show()

    def on_step_end(self, **info: Any) -> None:
        """Tune calls this about every second."""
        if self.console.is_terminal:
            if self.running.look():
                self._show()
        elif line := self.running.line():
            self._print(f"[{self.ended.total()}/{self.planned}] {line}{self._left()}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended; the study knows already how."""
        self.running.end(f"trial {self.number_of(trial.config)}")
        for ended in self._newly_ended():
            if not self.console.is_terminal:
                self._print(self._ended(ended))
                self.running.said()
        self._show()

    def _print(self, line: str) -> None:
        # An error's text may hold brackets, which are no markup.
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _newly_ended(self) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)[self.settled :]
        new = [t for t in trials if t.state.is_finished() and t.number not in self.seen]
        ended = [t for t in new if is_own(t)]
        known = [t for t in (*self.top, *ended) if t.state == TrialState.COMPLETE]
        top = sorted(known, key=rank(self.study), reverse=True)[: self.keep_top]
        kept = {t.number for t in top}
        changed = [*ended, *(t for t in self.top if t.number not in kept)]
        try:
            if time.monotonic() - self.table_written > TABLE_EVERY:
                write_trials(self.study, self.folder)
                self.table_written = time.monotonic()
            for trial in changed:
                clean_trial(self.folder, trial.number, trial.number in kept, self.storage)
        except OSError as error:  # a view of the study, and space to save: not worth a sweep
            self.console.print(f"the run folder cannot be tidied: {error}", markup=False)
        self.top = top
        self.ended.update(trial.state for trial in ended)
        self.seen |= {trial.number for trial in new}
        while self.settled in self.seen:  # all before have ended, and need not be looked at again
            self.seen.remove(self.settled)
            self.settled += 1
        return ended

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was given up."""
        self.on_trial_complete(iteration, trials, trial)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """The sweep ended or was interrupted."""
        self._show()
        self.progress.stop()

    def _show(self) -> None:
        finished, running = self.ended.total(), self.running
        outcomes = f"stopped early {self.ended[TrialState.PRUNED]} · failed {self.ended[TrialState.FAIL]}"
        line = f"trials {finished}/{self.planned} · running {len(running.running)} · {outcomes}{self._best()}"
        self.progress.update(self.task, description=line, completed=finished + running.epochs_done / self.epochs)
        running.show_furthest(self.progress, self.nearest)

    def _ended(self, trial: FrozenTrial) -> str:
        how = {
            TrialState.COMPLETE: f"complete, {trial.value or 0:.3f}",
            TrialState.PRUNED: f"stopped early after epoch {trial.last_step}",
            TrialState.FAIL: f"failed: {trial.user_attrs.get('error')}",
        }[trial.state]
        return f"[{self.ended.total()}/{self.planned}] trial {trial.number} {how}{self._best()}{self._left()}"

    def _left(self) -> str:
        """How long what is left of the sweep takes, by what has been done here, from the first epoch on."""
        at_work = self.running.epochs_done / self.epochs
        done, left = self.ended.total() - self.before + at_work, self.planned - self.ended.total() - at_work
        if not self.by_trials or done * self.epochs < 1 or left <= 0:
            return ""
        return f" · in all about {rough((time.monotonic() - self.began) * left / done)} left"

    def _best(self) -> str:
        return f" · best {self.top[0].value:.3f} (trial {self.top[0].number})" if self.top else ""
