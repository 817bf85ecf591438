"""A sweep: a study, its trials in Tune actors, the best configuration, its test result over seeds."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
import yaml
from optuna.trial import TrialState
from ray import tune

from raygap.config import TrialConfig, load_yaml
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.search.scheduler import make_scheduler
from raygap.search.space import SearchSpace, check_space
from raygap.search.study import StudySearch, finished_trials, load_study, open_storage
from raygap.search.trial import SweepTrial
from raygap.tracking.progress import ProgressLine
from raygap.tracking.run_folder import JOURNAL, PLAN, write_trials

RETRIES = 2
"""Times that a trial whose process died is started again; it goes on from its last epoch."""


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do; it is written to the run folder, and a resumed sweep takes it from there."""

    dataset: str
    root: str | None
    trials: int
    test_seeds: int
    fixed: dict[str, Any]
    space: dict[str, dict[str, list]]

    def check(self) -> TrialConfig:
        """Raise UserError for whatever would make a trial fail; see check_space for what is returned."""
        if self.trials < 1:
            raise UserError(f"trials = {self.trials}: a sweep needs at least one")
        config = check_space(SearchSpace(self.fixed, self.space), "search space")
        find_method(config.method)
        return config


def write_plan(plan: Plan, folder: Path) -> None:
    """Make the run folder and note the plan in it. Raises UserError if it holds a sweep or cannot be written."""
    if (folder / PLAN).exists():
        raise UserError(f"{folder}: holds a sweep already; continue it with --resume, or choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PLAN).write_text(yaml.safe_dump(asdict(plan), sort_keys=False))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder. Raises UserError if there is none."""
    if not (folder / PLAN).exists():
        raise UserError(f"{folder}: holds no sweep ({PLAN} is missing)")
    try:
        return Plan(**load_yaml(folder / PLAN))
    except TypeError as error:
        raise UserError(f"{folder / PLAN}: not the plan of a sweep ({error})") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process. Raises UserError if another sweep is at work in it."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another sweep is running in it") from None
        yield


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine."""
    if ray.is_initialized():
        return
    # Under `uv run`, Ray would build a second environment for its workers; on this machine they use this one.
    # On a cluster that is what is wanted, so there the hook stays.
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(log_to_driver=False, logging_level=logging.ERROR)


def default_concurrency(threads: int) -> int:
    """Trials at a time: one a GPU, or, without GPUs, one for each `threads` CPUs."""
    cluster = ray.cluster_resources()
    return max(int(cluster.get("GPU", 0)) or int(cluster.get("CPU", 1)) // threads, 1)


def trial_resources(concurrency: int) -> dict[str, float]:
    """An equal share of the cluster for each of `concurrency` trials; so no more of them can run at once."""
    cluster = ray.cluster_resources()
    shares = {name: int(cluster.get(name, 0) / concurrency * 1000) / 1000 for name in ("CPU", "GPU")}
    return {name: share for name, share in shares.items() if share > 0}


def run_trials(plan: Plan, folder: Path, store: Path, concurrency: int | None, time_budget: float | None) -> optuna.Study:
    """Run what is left of the planned trials and return the study. Ray is started if it is not running.

    Whatever ends this early (a kill, Ctrl-C, the time budget) leaves a folder from which another call goes on: trials
    that were running keep their number and start from their last epoch.
    """
    config = plan.check()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    start_ray()
    search = StudySearch(
        SearchSpace(plan.fixed, plan.space).domains(),
        open_storage(folder / JOURNAL),
        folder.name,
        seed=config.seed,
        epochs=config.epochs,
    )
    left = plan.trials - len(finished_trials(search.study))
    if left > 0:
        trainable = tune.with_parameters(
            SweepTrial, store=str(store), fixed=plan.fixed, folder=str(folder.resolve())
        )
        resources = trial_resources(concurrency or default_concurrency(config.compute.threads))
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=make_scheduler(search.study, config.epochs, config.warmup.epochs),
                num_samples=left,
                reuse_actors=True,
                time_budget_s=time_budget,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.resolve()),
                verbose=0,
                callbacks=[ProgressLine(search.study, folder, plan.trials, config.epochs)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        tuner.fit()
    write_trials(search.study, folder)
    return search.study
