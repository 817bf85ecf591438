"""Early stopping: Ray's ASHA over epochs of both stages, with a memory of earlier runs of the same sweep."""

from types import SimpleNamespace

import optuna
from ray.tune.schedulers import ASHAScheduler

from raygap.search.study import METRIC, finished_trials


def make_scheduler(study: optuna.Study, epochs: int, longest_warmup: int, reduction_factor: float) -> ASHAScheduler:
    """ASHA whose first verdict falls after the first adaptive epoch of the trial with the longest warm-up.

    Earlier verdicts would compare trials that are still warming up, all alike, with trials that are not.
    """
    first = min(longest_warmup + 1, epochs)
    scheduler = ASHAScheduler(
        time_attr="epoch", metric=METRIC, mode="max", max_t=epochs, grace_period=first,
        reduction_factor=reduction_factor,
    )
    # The rungs live in memory only: fill them from the study, so that a resumed sweep is as strict as before.
    for trial in finished_trials(study):
        known = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        for epoch, value in sorted(trial.intermediate_values.items()):
            scheduler._brackets[0].on_result(known, epoch, value)
    return scheduler
