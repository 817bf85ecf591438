"""Early stopping in Ray Tune: a scheduler that asks the stopping rule after every epoch."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raygap.methods import find_method
from raygap.schema import from_mapping, shapes_warmup
from raygap.search.placement import why_given_up
from raygap.search.space import own_fields
from raygap.search.stopping import StoppingRule, Warmup
from raygap.search.study import METRIC, TRIAL_NUMBER, finished_trials
from raygap.tracking.run_folder import fields_of, own_trials


class StoppingScheduler(FIFOScheduler):
    """Stops trials as the rule says, keeps why trials were given up, and leaves their order to Tune's queue.

    Ray's own schedulers hand a process that has become free to the first trial that waits, also to one whose own
    process is on its way, and end that one. Where trials are shorter than the start of a process, one process would do
    all the work.
    """

    def __init__(self, rule: StoppingRule, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.rule, self.fixed = rule, fixed
        self.warmups: dict[int, Warmup] = {}
        self.given_up: dict[str, str] = {}
        self.spares: Callable[[int], bool] = lambda number: False
        """Whether the trial of this number is not to be stopped, as it is waited for."""

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        """An epoch ended, but not the last one."""
        number = trial.config[TRIAL_NUMBER]
        if number not in self.warmups:
            own = {path: value for path, value in trial.config.items() if path != TRIAL_NUMBER}
            self.warmups[number] = warmup_of(own, self.fixed)
        go = self.rule.goes_on(number, self.warmups[number], result["epoch"], result[METRIC])
        return TrialScheduler.CONTINUE if go or self.spares(number) else TrialScheduler.STOP

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A try has failed; Tune tells the search of it next, if it was the last, but not why."""
        self.given_up[trial.trial_id] = why_given_up(trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> None:
        """None: Tune's queue, which passes over trials whose process is on its way, decides."""
        return None


def make_scheduler(study: optuna.Study, rule: StoppingRule, fixed: dict[str, Any]) -> StoppingScheduler:
    """A scheduler whose rule knows what the study's trials had, so that a resumed sweep is as strict as before."""
    sign = -1 if study.direction == StudyDirection.MINIMIZE else 1  # to the rule, more is better
    for trial in (*finished_trials(study), *own_trials(study, TrialState.RUNNING)):
        if values := {epoch: sign * value for epoch, value in trial.intermediate_values.items()}:
            rule.remember(trial.number, warmup_of(fields_of(trial), fixed), values)
    return StoppingScheduler(rule, fixed)


def warmup_of(own: dict[str, Any], fixed: dict[str, Any]) -> Warmup:
    """Of a trial that sets these fields itself, over those that the sweep holds fixed."""
    config = from_mapping(own_fields(fixed, own))
    shaping = sorted((path, value) for path, value in own.items() if shapes_warmup(path, config.method))
    return Warmup(config.warmup.epochs, tuple(shaping), find_method(config.method).starts_anew)
