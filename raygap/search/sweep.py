"""The trials of a sweep, on Ray Tune."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from ray import tune

from raygap.data.store import Store
from raygap.search.cluster import place, remove_orphans, start_ray
from raygap.search.plan import Plan
from raygap.search.scheduler import make_scheduler
from raygap.search.space import SearchSpace
from raygap.search.study import StudySearch, check_store, finished_trials, open_storage
from raygap.search.together import DRIVER, run_trial
from raygap.search.trial import SweepTrial
from raygap.tracking.progress import ProgressLine
from raygap.tracking.run_folder import JOURNAL, write_trials

TRUNK = ".trunk"
"""Folder beside the run folders in which their sweeps share warm-ups."""
RETRIES = 2
"""Times that a trial whose process died is started again; it goes on from its last epoch."""


@contextmanager
def _own_signals() -> Iterator[None]:
    # Tune leaves its handler behind, and the next Ctrl-C would do nothing.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class GiveBack(tune.Callback):
    """Gives back what the cluster still holds for trials that were stopped or died, every second."""

    last = 0.0

    def on_step_end(self, **info: Any) -> None:
        """Tune calls this all the time."""
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            remove_orphans()


def run_trials(
    plan: Plan, folder: Path, store: Path, concurrency: int | None = None, time_budget: float | None = None
) -> optuna.Study:
    """Run what is left of the planned trials and return the study; starts Ray if it is not running.

    `time_budget` is in seconds. Whatever ends this early (a kill, Ctrl-C, the budget) leaves a folder from which
    another call goes on: trials that were running keep their number and start from their last epoch.
    """
    config = plan.check()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output engine prints tables even at verbose=0
    start_ray()
    placement = place(config, concurrency, plan.cpus_per_worker, plan.gpus_per_worker)
    several = placement.workers > 1
    space = SearchSpace(plan.fixed, plan.space)
    search = StudySearch(space.domains(), open_storage(folder / JOURNAL), config.seed, config.epochs)
    check_store(search.study, Store.open(store).header["key"])
    search.trial_seconds = plan.trial_seconds
    search.scheduler = make_scheduler(search.study, config.epochs, config.warmup.epochs)
    left = plan.trials - len(finished_trials(search.study))
    if left > 0:
        run = folder.resolve()
        trainable = tune.with_parameters(
            run_trial if several else SweepTrial,
            store=str(store),
            fixed=plan.fixed,
            folder=str(run),
            trunk=(str(run.parent / TRUNK), plan.trunk_gb * 1e9) if plan.trunk_gb else None,
            **({"placement": placement} if several else {}),
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, DRIVER if several else placement.each),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=search.scheduler,
                num_samples=left,
                max_concurrent_trials=placement.at_once,  # also how many processes Tune starts at once
                reuse_actors=not several,
                time_budget_s=time_budget,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(run),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trials keep their own
                callbacks=[
                    ProgressLine(search.study, folder, plan.trials, config.epochs),
                    *([GiveBack()] if several else []),
                ],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        try:
            with _own_signals():
                tuner.fit()
        finally:
            remove_orphans(of_living=True)
    write_trials(search.study, folder)
    return search.study
