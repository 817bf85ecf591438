"""What Tune asks for the next trial and tells how each ended: a searcher over the study in the run folder."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GridSampler
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from ray.tune.search import Searcher

from raygap.errors import UserError
from raygap.search.gpus import GPU_MEMORY
from raygap.search.known import Start
from raygap.search.pool import Pool
from raygap.search.scheduler import StoppingScheduler
from raygap.search.space import SearchSpace
from raygap.search.study import (
    ENDED,
    EPOCHS_IN_ALL,
    METRIC,
    SEED_VALUES,
    STUDY,
    TRIAL_NUMBER,
    TRIED_AGAIN,
    finished_trials,
    seconds_spent,
    suggest,
    taken_up,
    without_improvement,
)
from raygap.tracking.objectives import METRIC as MEASURE
from raygap.tracking.objectives import VALUES, parse_metric
from raygap.tracking.run_folder import ANSWERED, BESIDE, KNOWN, PLAIN, fields_of, own_trials

_NOT_RESUMED = "interrupted, and not gone on with: no longer in the plan, or in the search space"
_DEAD_IN_A_ROW = 10
"""Trials in a row that died without a result, after which a search gives up: no other would fare better."""


_ANSWERED_IN_A_ROW = 200
"""Suggestions in a row that were tried before, after which a space counts as searched through."""


@dataclass
class _Running:
    """What is known of a trial that Tune runs."""

    trial: Trial
    values: dict[int, float]
    """By epoch, those that the study has."""
    seconds: float
    """That it took so far, in all its processes, also in those before the sweep was resumed."""
    since: float = field(default_factory=time.monotonic)
    """When it was last heard of."""
    told: float | None = None
    """time_total_s of the last result: Tune tells some twice."""
    gpu_memory: float = 0.0
    """The largest share of a GPU's that was taken; 0 if there is none."""
    ended: bool = False

    def hear(self, result: dict[str, Any]) -> None:
        """Add a result's seconds. Its time_total_s would not do: it counts anew in each process."""
        if result.get("time_total_s") != self.told:
            self.told = result["time_total_s"]
            self.seconds += result["time_this_iter_s"]
        self.since = time.monotonic()


class StudySearch(Searcher):
    """A searcher with a memory: it first hands out the trials that a killed sweep left running, under their old
    numbers, then what waits for its turn in the study, and keeps there what the summary needs.
    """

    def __init__(
        self,
        space: SearchSpace,
        storage: JournalStorage,
        epochs: int,
        sampler: Callable[[int], BaseSampler],
        metric: str = "accuracy",
    ) -> None:
        """`sampler` makes one for a study that has so many trials already."""
        super().__init__(metric=METRIC, mode="max")
        self.space, self._distributions, self._epochs = space, space.distributions(), epochs
        self.objectives, self._make_sampler = parse_metric(metric), sampler
        self._sign = -1 if self.objectives[0].lower else 1
        [direction, *_] = self._directions = [
            StudyDirection.MINIMIZE if objective.lower else StudyDirection.MAXIMIZE for objective in self.objectives
        ]
        self.study = optuna.create_study(storage=storage, study_name=STUDY, direction=direction, load_if_exists=True)
        self.study.set_user_attr(MEASURE, metric)
        self.study.sampler = sampler(len(self.study.get_trials(deepcopy=False)))
        self.scheduler: StoppingScheduler
        self.pool: Pool | None = None
        self._known: Sequence[Start] = ()
        self.trial_seconds: float | None = None
        self.patience: int | None = None
        self.seeds = 1
        self._running: dict[str, _Running] = {}
        self._held: Trial | None = None
        """A trial that waits for one with the same configuration, which runs."""
        self._dead_in_a_row, self._cause = 0, ""
        self.study.set_user_attr(ENDED, "")
        self._interrupted = deque(own_trials(self.study, TrialState.RUNNING))

    def begin_with(self, known: Sequence[Start]) -> None:
        """Have these configurations wait for their turn before all others; each once, also where a sweep goes on.

        Those that want a history that is not there yet come later, behind the others.
        """
        later = [start for start in known if self.pool and self.pool.wanted(start.beside | start.params)]
        now = [start for start in known if start not in later]
        self._known = known
        waiting = [trial for trial in self.study.get_trials(deepcopy=False) if KNOWN in trial.user_attrs]
        for start in [*now, *(later if self._settled else [])][len(waiting) :]:
            noted = {KNOWN: start.source, BESIDE: start.beside} | ({PLAIN: True} if start.plain else {})
            self.study.enqueue_trial(start.params, user_attrs=noted)

    @property
    def _settled(self) -> bool:
        """No trial need wait for a history."""
        return self.pool is None or self.pool.settled

    def save(self, checkpoint_path: str) -> None:
        """For Tune, which would go on from there; here the study alone is what a sweep goes on from."""
        Path(checkpoint_path).touch()

    def take_up(self, planned: int) -> int:
        """How many of `planned` trials are left. Interrupted ones among them, and no others, will be gone on with.

        The rest is told as failed: the sampler keeps away from the neighbourhood of trials that seem to be running.
        Where all that ended have failed, what failed them may be mended by now: others take their places.
        """
        ended = finished_trials(self.study)
        if ended and all(trial.state == TrialState.FAIL for trial in ended):
            self.study.set_user_attr(TRIED_AGAIN, ended[-1].number + 1)
        self._give_up([trial for trial in self._interrupted if not trial.params.keys() <= self._distributions.keys()])
        left = max(planned - len(finished_trials(self.study)), 0)
        self._give_up(list(self._interrupted)[left:])
        return left

    def _give_up(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            taken_up(self.study, trial).set_user_attr("error", _NOT_RESUMED)
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
        if self.patience is not None and (waited := without_improvement(self.study)) >= self.patience:
            self.study.set_user_attr(ENDED, f"{waited} trials in a row have brought no improvement")
            return self.FINISHED
        if self.pool and not self.pool.settled:
            if start := self.pool.tend():  # in place of one that failed
                self.study.enqueue_trial(start.params, user_attrs={BESIDE: start.beside, PLAIN: True})
            if self.pool.settled:
                self.begin_with(self._known)
        if trial_id not in self._running:
            trial, values = self._go_on() if self._interrupted else (self._next(), {})
            if trial is None:
                return None if self._held or not self._settled else self.FINISHED
            self._running[trial_id] = _Running(trial, values, trial.user_attrs.get("seconds", 0.0))
        trial = self._running[trial_id].trial
        return {**_own_fields(trial), TRIAL_NUMBER: trial.number}

    def _go_on(self) -> tuple[Trial, dict[int, float]]:
        """A trial that was interrupted, with its values so far."""
        before = self._interrupted.popleft()
        trial = taken_up(self.study, before)
        self._ask(trial)  # what is already set stays; a kill may have left some unset
        return trial, dict(before.intermediate_values)

    def _next(self) -> Trial | None:
        """A trial that nobody has trained yet; None if it must wait for others, or no other comes any more."""
        for _ in range(_ANSWERED_IN_A_ROW):
            trial, self._held = self._held or self._new(), None
            if trial is None:
                return None
            self._ask(trial)
            own = _own_fields(trial)
            if any(_own_fields(one.trial) == own for one in self._running.values() if not one.ended):
                self._held = trial
                return None
            ended = own_trials(self.study, TrialState.COMPLETE, TrialState.PRUNED)
            before = next((one for one in ended if fields_of(one) == own), None)
            if before is None:
                return trial
            # The same settings and seed give the same numbers to the last bit.
            trial.set_user_attr(ANSWERED, before.number)
            for epoch, value in before.intermediate_values.items():
                trial.report(value, epoch)
            self.study.tell(trial, before.values if before.state == TrialState.COMPLETE else None, state=before.state)
        if self._settled:
            self.study.set_user_attr(ENDED, "every configuration that the sampler still suggests was tried before")
        return None

    def _new(self) -> Trial | None:
        """The next that waits for its turn, or one that the sampler suggests; None if that had to wait for a history.

        While there is none, what is suggested does without, where the space has other sources: no place stays idle.

        Of several objectives it learns in a study beside: Optuna's knows no values within a trial where it has several,
        which early stopping needs.
        """
        waits = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        without: dict[str, Any] = {}
        if not waits and not self._settled and "history" in (sources := self.space.values("gap.source")):
            others = [source for source in sources if source != "history"]
            if not others or isinstance(self.study.sampler, GridSampler):  # which takes whole points alone
                return None
            without = {"gap.source": others[0]}
        if waits or len(self.objectives) == 1:
            if without:
                self.study.enqueue_trial(without)
            return self.study.ask()
        earlier = self.study.get_trials(deepcopy=False)
        beside = optuna.create_study(directions=self._directions, sampler=self._make_sampler(len(earlier)))
        for trial in own_trials(self.study, TrialState.COMPLETE):
            values = [trial.user_attrs[VALUES][objective.name] for objective in self.objectives]
            beside.add_trial(create_trial(values=values, params=trial.params, distributions=trial.distributions))
        if without:
            beside.enqueue_trial(without)
        asked = beside.ask()
        self._ask(asked)
        self.study.enqueue_trial(asked.params)
        return self.study.ask()

    def _ask(self, trial: Trial) -> None:
        """Give a trial the searched fields that can act in it: the one place where a trial gets its values."""
        beside = trial.user_attrs.get(BESIDE, {})
        drawn = self.space.ask(lambda path: suggest(trial, path, self._distributions[path]), beside)
        if self.pool and (history := self.pool.fields(beside | drawn)):
            trial.set_user_attr(BESIDE, beside | history)

    def _budget_is_spent(self) -> bool:
        running = [one.seconds for one in self._running.values() if not one.ended]
        return self.trial_seconds is not None and seconds_spent(self.study, running) >= self.trial_seconds

    def out_of_budget(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tune stops a trial for which this is true: all trials once the budget of seconds is spent.

        Long trials would else get as much again as many of them run at a time. One whole training is granted: the one
        furthest along goes on while none is complete.
        """
        if not self._budget_is_spent():
            return False
        if own_trials(self.study, TrialState.COMPLETE):
            return True
        running = {key: one for key, one in self._running.items() if not one.ended}
        return trial_id != max(running, key=lambda key: max(running[key].values, default=0))

    def stops(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tune stops a trial for which this is true: out of budget, or of several seeds and behind for good."""
        return self.out_of_budget(trial_id, result) or self._cannot_catch_up(trial_id, result)

    def _cannot_catch_up(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Even if each seed left were as good as the best that any trial has had, its mean would be no better than the
        best trial's.
        """
        values, left = result.get(SEED_VALUES, ()), self.seeds - len(result.get(SEED_VALUES, ()))
        if not values or not left:  # of one seed nothing is noted
            return False
        if self.pool and self.pool.spares(self._running[trial_id].trial.number):
            return False
        ended = [trial.user_attrs[SEED_VALUES] for trial in own_trials(self.study, TrialState.COMPLETE)]
        if not ended:
            return False
        before = [[self._sign * value for value in of_one] for of_one in ended]
        highest = max(max(map(max, before)), *values)
        return (sum(values) + left * highest) / self.seeds <= max(map(fmean, before))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch's value, once, though a resumed trial reports its first epochs again; and its seconds."""
        running = self._running[trial_id]
        self._dead_in_a_row = 0
        self._report(running, result)
        running.hear(result)
        if len(values := result.get(SEED_VALUES, ())) > len(running.trial.user_attrs.get(SEED_VALUES, ())):
            running.trial.set_user_attr(SEED_VALUES, [self._sign * value for value in values])
        running.trial.set_user_attr("seconds", round(running.seconds, 1))  # for a sweep that goes on with it
        running.gpu_memory = max(running.gpu_memory, result.get(GPU_MEMORY, 0.0))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study: failed if the trial says so or died, pruned if it was stopped early, else complete."""
        running, result = self._running[trial_id], result or {}
        if running.ended:
            return
        running.ended, trial = True, running.trial
        if GPU_MEMORY not in self.study.user_attrs:  # the first trial's
            self.study.set_user_attr(GPU_MEMORY, running.gpu_memory)
        if result:
            self._dead_in_a_row = 0
            running.hear(result)
        elif error:
            self._dead_in_a_row += running.told is None
            self._cause = self.scheduler.given_up[trial_id]
            running.seconds += time.monotonic() - running.since
        reason = result.get("error") or (self._cause if error else None)
        if not reason:
            self._report(running, result)
        trial.set_user_attr("epochs", result.get(EPOCHS_IN_ALL, result.get("epoch", 0)))
        trial.set_user_attr("epochs_reused", result.get("epochs_reused", 0))
        trial.set_user_attr("scoring_epochs", result.get("scoring_epochs", 0))
        trial.set_user_attr("seconds", round(running.seconds, 1))
        if reason or METRIC not in result:
            trial.set_user_attr("error", reason or "the trial ended without a result")
            self.study.tell(trial, state=TrialState.FAIL)
        elif result["epoch"] < self._epochs or len(result.get(SEED_VALUES, ())) not in (0, self.seeds):
            self.study.tell(trial, state=TrialState.PRUNED)
        elif self.seeds > 1:
            trial.set_user_attr(SEED_VALUES, [self._sign * value for value in result[SEED_VALUES]])
            self.study.tell(trial, self._sign * fmean(result[SEED_VALUES]))
        else:
            if len(self.objectives) > 1:
                trial.set_user_attr(VALUES, {one.name: result[f"{METRIC}_{one.name}"] for one in self.objectives})
            self.study.tell(trial, self._sign * result[METRIC])

    def _report(self, running: _Running, result: dict[str, Any]) -> None:
        value = result.get(METRIC, math.nan)
        if not math.isnan(value) and result["epoch"] not in running.values:
            running.values[result["epoch"]] = value
            running.trial.report(self._sign * value, result["epoch"])


def _own_fields(trial: Trial) -> dict[str, Any]:
    """As fields_of has them."""
    return {**trial.user_attrs.get(BESIDE, {}), **trial.params}
