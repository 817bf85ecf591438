"""The trials of a sweep, on Ray Tune."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from ray import tune

from raygap.data.store import Store
from raygap.search.cluster import default_concurrency, nodes, start_ray, trial_resources
from raygap.search.plan import Plan
from raygap.search.scheduler import make_scheduler
from raygap.search.space import SearchSpace
from raygap.search.study import StudySearch, check_store, finished_trials, open_storage
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
    space = SearchSpace(plan.fixed, plan.space)
    search = StudySearch(space.domains(), open_storage(folder / JOURNAL), config.seed, config.epochs)
    check_store(search.study, Store.open(store).header["key"])
    search.scheduler = make_scheduler(search.study, config.epochs, config.warmup.epochs)
    left = plan.trials - len(finished_trials(search.study))
    if left > 0:
        run = folder.resolve()
        trainable = tune.with_parameters(
            SweepTrial,
            store=str(store),
            fixed=plan.fixed,
            folder=str(run),
            trunk=(str(run.parent / TRUNK), plan.trunk_gb * 1e9) if plan.trunk_gb else None,
        )
        at_once = concurrency or default_concurrency(config.compute.threads)
        tuner = tune.Tuner(
            tune.with_resources(trainable, trial_resources(at_once)),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=search.scheduler,
                num_samples=left,
                max_concurrent_trials=at_once if len(nodes()) > 1 else None,  # on one machine the resources see to it
                reuse_actors=True,
                time_budget_s=time_budget,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(run),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trials keep their own
                callbacks=[ProgressLine(search.study, folder, plan.trials, config.epochs)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        with _own_signals():
            tuner.fit()
    write_trials(search.study, folder)
    return search.study
