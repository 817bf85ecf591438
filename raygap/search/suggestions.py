"""What Tune asks for the next trial and tells how each ended: Ray's OptunaSearch, over the study in the run folder."""

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from raygap.errors import UserError
from raygap.search.scheduler import PatientASHA
from raygap.search.study import METRIC, STUDY, TRIAL_NUMBER, TRIED_AGAIN, finished_trials, remember, seconds_spent

_NOT_RESUMED = "interrupted, and not gone on with: no longer in the plan, or in the search space"
_DEAD_IN_A_ROW = 10
"""Trials in a row that died without a result, after which a search gives up: no other would fare better."""


@dataclass
class _Spent:
    """Seconds that a trial took so far, in all its processes, also in those before the sweep was resumed."""

    seconds: float
    since: float
    """When it was last heard of, by time.monotonic()."""
    told: float | None = None
    """time_total_s of the last result: Tune tells some twice."""

    def hear(self, result: dict[str, Any]) -> None:
        """Add a result's seconds. Its time_total_s would not do: it counts anew in each process."""
        if result.get("time_total_s") != self.told:
            self.told = result["time_total_s"]
            self.seconds += result["time_this_iter_s"]
        self.since = time.monotonic()


class StudySearch(OptunaSearch):
    """Ray's OptunaSearch with a memory: it first hands out the trials that a killed sweep left running, under their
    old numbers, tells Optuna pruned and failed trials as such, and keeps what the summary needs in the study.
    """

    def __init__(self, space: dict[str, Domain], storage: JournalStorage, seed: int, epochs: int) -> None:
        super().__init__(
            self.convert_search_space(space),
            metric=METRIC,
            mode="max",
            study_name=STUDY,
            storage=storage,
        )
        self._epochs = epochs
        # Another seed after each restart: the same one would suggest the same points again.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(self.study.trials))
        self.scheduler: PatientASHA
        self.trial_seconds: float | None = None
        self._spent: dict[str, _Spent] = {}
        self._dead_in_a_row, self._cause = 0, ""
        self._interrupted = deque(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    @property
    def study(self) -> optuna.Study:
        """The Optuna study."""
        return self._ot_study

    def take_up(self, planned: int) -> int:
        """How many of `planned` trials are left. Interrupted ones among them, and no others, will be gone on with.

        The rest is told as failed: the sampler keeps away from the neighbourhood of trials that seem to be running.
        Where all that ended have failed, what failed them may be mended by now: others take their places.
        """
        ended = finished_trials(self.study)
        if ended and all(trial.state == TrialState.FAIL for trial in ended):
            self.study.set_user_attr(TRIED_AGAIN, ended[-1].number + 1)
        self._give_up([trial for trial in self._interrupted if not trial.params.keys() <= self._space.keys()])
        left = max(planned - len(finished_trials(self.study)), 0)
        self._give_up(list(self._interrupted)[left:])
        return left

    def _give_up(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            optuna.trial.Trial(self.study, trial._trial_id).set_user_attr("error", _NOT_RESUMED)
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._interrupted.remove(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration by dotted path, and the trial's number in the study.

        Raises UserError if trials only die.
        """
        if self._dead_in_a_row >= _DEAD_IN_A_ROW:
            raise UserError(
                f"the last {_DEAD_IN_A_ROW} trials died without a result, so processes cannot start or work here; mend "
                f"that, and go on with --resume. The last one: {self._cause}"
            )
        if self._budget_is_spent():
            return self.FINISHED
        if self._interrupted and trial_id not in self._ot_trials:
            trial = optuna.trial.Trial(self.study, self._interrupted.popleft()._trial_id)
            for name, distribution in self._space.items():
                trial._suggest(name, distribution)  # what is already set stays; a kill may have left some unset
            self._ot_trials[trial_id] = trial
            # Rungs that the trial has passed are not put to it again.
            remember(self.scheduler, trial_id, trial.study.trials[trial.number].intermediate_values)
        params = super().suggest(trial_id)
        if params is None:
            return None
        trial = self._ot_trials[trial_id]
        self._spent[trial_id] = _Spent(trial.user_attrs.get("seconds", 0.0), time.monotonic())
        return {**params, TRIAL_NUMBER: trial.number}

    def _budget_is_spent(self) -> bool:
        running = [spent.seconds for trial_id, spent in self._spent.items() if trial_id not in self._completed_trials]
        return self.trial_seconds is not None and seconds_spent(self.study, running) >= self.trial_seconds

    def out_of_budget(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tune stops a trial for which this is true: all trials once the budget of seconds is spent.

        Long trials would else get as much again as many of them run at a time. One whole training is granted: the one
        furthest along goes on while none is complete.
        """
        if not self._budget_is_spent():
            return False
        if self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return True
        running = [key for key in self._spent if key not in self._completed_trials]
        return trial_id != max(running, key=lambda key: self._epochs_of(key))

    def _epochs_of(self, trial_id: str) -> int:
        known = self.study._storage.get_trial(self._ot_trials[trial_id]._trial_id).intermediate_values
        return max(known, default=0)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch's value, once, though a resumed trial reports its first epochs again; and its seconds."""
        trial, spent = self._ot_trials[trial_id], self._spent[trial_id]
        self._dead_in_a_row = 0
        self._report(trial, result)
        spent.hear(result)
        trial.set_user_attr("seconds", round(spent.seconds, 1))  # for a sweep that goes on with it

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study: failed if the trial says so or died, pruned if it was stopped early, else complete."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial, spent, result = self._ot_trials[trial_id], self._spent[trial_id], result or {}
        if result:
            self._dead_in_a_row = 0
            spent.hear(result)
        elif error:
            self._dead_in_a_row += spent.told is None
            self._cause = self.scheduler.given_up[trial_id]
            spent.seconds += time.monotonic() - spent.since
        reason = result.get("error") or (self._cause if error else None)
        if not reason:
            self._report(trial, result)
        trial.set_user_attr("epochs", result.get("epoch", 0))
        trial.set_user_attr("epochs_reused", result.get("epochs_reused", 0))
        trial.set_user_attr("seconds", round(spent.seconds, 1))
        if reason or METRIC not in result:
            trial.set_user_attr("error", reason or "the trial ended without a result")
            self.study.tell(trial, state=TrialState.FAIL)
        elif result["epoch"] < self._epochs:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, result[METRIC])

    def _report(self, trial: optuna.trial.Trial, result: dict[str, Any]) -> None:
        value = result.get(METRIC, math.nan)
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        if not math.isnan(value) and result["epoch"] not in known:
            trial.report(value, result["epoch"])
