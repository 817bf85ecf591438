"""The trials of a sweep, on Ray Tune."""

import sys
import time
from contextlib import suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune

from raygap.config import TrialConfig
from raygap.data.local_store import keep_store
from raygap.data.store import Store
from raygap.patience import patiently
from raygap.search.gpus import GPU_MEMORY, in_words, settled
from raygap.search.journal import open_storage
from raygap.search.kept import KeepJournal, drop_unknown_trials
from raygap.search.known import as_trial
from raygap.search.learning import learn
from raygap.search.placement import (
    NEED_GPUS,
    RETRIES,
    CountTriesAnew,
    Placement,
    fit,
    needs_gpus,
    nodes,
    place,
    refusal_named,
)
from raygap.search.plan import AUTO, Plan
from raygap.search.pool import Pool
from raygap.search.ray_start import start_ray
from raygap.search.samplers import make_sampler
from raygap.search.scheduler import make_scheduler
from raygap.search.stopping import make_rule
from raygap.search.study import FINISHED, TRIAL_NUMBER, check_store, read_study, suggested_config
from raygap.search.suggestions import StudySearch
from raygap.search.together import DRIVER, GiveBack, run_trial
from raygap.search.trial import SweepTrial
from raygap.storage import Copies, Storage
from raygap.tracking.progress import ProgressLine
from raygap.tracking.run_folder import JOURNAL, clean_trial, own_trials, write_trials
from raygap.tracking.wandb.callback import SweepLog, WandbCallback
from raygap.training.trunk import FOLDER as WARMUPS
from raygap.training.trunk import SharedWarmups


def shared_warmups(plan: Plan, folder: Path, copies: Copies | None) -> SharedWarmups | None:
    """What the trials and seeds of a run folder share with each other, and with the sweeps beside it unless the plan
    keeps its own; None where nothing may be kept.
    """
    if not plan.trunk_gb:
        return None
    run = folder.resolve()
    place = run if plan.own_trunk else run.parent
    return SharedWarmups(place / WARMUPS, plan.trunk_gb * 1e9, copies.folder.at("..", WARMUPS) if copies else None)


def plan_placement(plan: Plan, concurrency: int | None) -> Placement:
    """How the plan's trials share the cluster, or this machine if there is none. Raises UserError as place does."""
    needs_gpus({field: plan.space.get(field, {}).get("choice", []) for field in NEED_GPUS})
    gpus = None if isinstance(plan.gpus_per_worker, str) else plan.gpus_per_worker  # AUTO
    return place(plan.check(), concurrency, plan.cpus_per_worker, gpus)


@refusal_named()
def run_trials(
    plan: Plan,
    folder: Path,
    store: Path,
    concurrency: int | None = None,
    time_budget: float | None = None,
    log: SweepLog | None = None,
    quiet: bool = False,
) -> optuna.Study:
    """Run what is left of the planned trials and return the study; starts Ray if it is not running.

    `time_budget` is in seconds; `log` is told of every epoch; `quiet` shows no progress. Whatever ends this early (a
    kill, Ctrl-C, the budget) leaves a folder from which another call goes on: trials that were running keep their
    number and start from their last epoch. Where the GPUs of a trial are to be found out, the first runs alone.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start_ray(dashboard=plan.check().compute.workers > 1)
    began = time.monotonic()
    if plan.gpus_per_worker == AUTO and any(node.get("GPU") for node in nodes()):
        study = read_study(folder)
        if study is None or GPU_MEMORY not in study.user_attrs:
            study = _run(plan, folder, store, 1, time_budget, log, quiet, most=1)
        plan = settled(plan, study)
        if not quiet and study.user_attrs.get(GPU_MEMORY):
            print(in_words(study.user_attrs[GPU_MEMORY]), file=sys.stderr, flush=True)
        if time_budget is not None:
            time_budget = max(time_budget - (time.monotonic() - began), 1.0)
    return _run(plan, folder, store, concurrency, time_budget, log, quiet)


def _run(
    plan: Plan,
    folder: Path,
    store: Path,
    concurrency: int | None,
    time_budget: float | None,
    log: SweepLog | None,
    quiet: bool,
    most: int | None = None,
) -> optuna.Study:
    """As run_trials; with `most`, until so many trials have ended."""
    config = plan.check()
    placement = plan_placement(plan, concurrency)
    several = placement.workers > 1
    space = plan.search_space
    sampler = partial(make_sampler, plan.sampler, space, config.seed, plan.trials, len(plan.known))
    search = StudySearch(space, open_storage(folder / JOURNAL), config.epochs, sampler, plan.metric)
    check_store(search.study, Store.open(store).header["key"])
    copies = plan.copies(store)
    shared = shared_warmups(plan, folder, copies)
    search.pool = Pool(plan, search.study, folder, Store.open(store), shared)
    search.begin_with([as_trial(known, space, config.seed) for known in plan.known])
    if plan.learn_from and Path(plan.learn_from).exists():  # else what it was told already must do
        learn(search.study, Path(plan.learn_from))
    search.trial_seconds, search.patience, search.seeds = plan.trial_seconds, plan.patience, plan.seeds_per_trial
    search.scheduler = make_scheduler(search.study, make_rule(plan.stopper, config.epochs), plan.fixed)
    search.scheduler.spares = search.pool.spares
    if copies:
        keep_store(store, copies.store)
        drop_unknown_trials(copies.folder, len(search.study.trials))
    if left := search.take_up(plan.trials if most is None else min(most, plan.trials)):
        ended = len(own_trials(search.study, *FINISHED))
        run = folder.resolve()
        trainable = tune.with_parameters(
            run_trial if several else SweepTrial,
            store=store,
            fixed=plan.fixed,
            folder=run,
            trunk=shared,
            copies=copies,
            metric=plan.metric,
            seeds=plan.seeds_per_trial,
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
                stop=search.stops,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trials keep their own
                callbacks=[
                    CountTriesAnew(),
                    *([KeepJournal(folder, copies.folder)] if copies else []),
                    ProgressLine(
                        search.study,
                        folder,
                        ended + left,
                        config.epochs,
                        copies.folder if copies else None,
                        number_of=itemgetter(TRIAL_NUMBER),
                        quiet=quiet,
                        keep_top=plan.keep_top,
                        by_trials=plan.trial_seconds is None and time_budget is None,
                    ),
                    *([GiveBack()] if several else []),
                    *([WandbCallback(log, search.study, partial(_describe, plan.fixed))] if log else []),
                ],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
            ),
        )
        fit(tuner, keys=bool(copies))
        if several:
            _clean_again(search.study, folder, copies.folder if copies else None)
    patiently(lambda: write_trials(search.study, folder))
    return search.study


def _clean_again(study: optuna.Study, folder: Path, storage: Storage | None) -> None:
    # Until its places were given back, a stopped trial's workers may have written an epoch more.
    for trial in own_trials(study, TrialState.PRUNED):
        with suppress(OSError):
            clean_trial(folder, trial.number, keep=False, storage=storage)


def _describe(fixed: dict[str, Any], suggested: dict[str, Any]) -> tuple[int, TrialConfig]:
    return suggested[TRIAL_NUMBER], suggested_config(suggested, fixed)
