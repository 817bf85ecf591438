"""Early stopping: Ray's ASHA over epochs of both stages, with a memory of earlier runs of the same sweep."""

from typing import Any

import optuna
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from raygap.search.placement import why_given_up
from raygap.search.study import METRIC, finished_trials, remember

REDUCTION_FACTOR = 3
"""A trial goes on past a rung if it is among the best third of those that reached it."""


class PatientASHA(ASHAScheduler):
    """ASHA that never takes the place of a trial whose process is still starting, and keeps why trials were given up.

    Ray's own hands a process that has become free to the first trial that waits, also to one whose own process is on
    its way, and ends that one. Where trials are shorter than the start of a process, one process would do all the work.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.given_up: dict[str, str] = {}

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """A try has failed; Tune tells the search of it next, if it was the last, but not why."""
        super().on_trial_error(tune_controller, trial)
        self.given_up[trial.trial_id] = why_given_up(trial)

    def choose_trial_to_run(self, tune_controller: TuneController) -> None:
        """None: Tune's queue, which passes over such trials, decides."""
        return None


def make_scheduler(study: optuna.Study, epochs: int, longest_warmup: int) -> PatientASHA:
    """ASHA whose first verdict falls after the first adaptive epoch of the trial with the longest warm-up.

    Earlier verdicts would compare trials that are still warming up, all alike, with trials that are not.
    """
    scheduler = PatientASHA(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=epochs,
        grace_period=min(longest_warmup + 1, epochs),
        reduction_factor=REDUCTION_FACTOR,
    )
    # Filled from the study, so that a resumed sweep is as strict as before.
    for trial in finished_trials(study):
        remember(scheduler, f"earlier-{trial.number}", trial.intermediate_values)
    return scheduler
