"""raygap.sweep: search a method's configuration on a data set."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from raygap.api.arguments import (
    Count,
    Cpus,
    Fields,
    Gigabytes,
    Gpus,
    Number,
    Progress,
    Seconds,
    Share,
    Val,
    checked,
    find_source,
    given_fields,
    present,
    reader_options,
)
from raygap.api.results import SweepRun, read_run
from raygap.commands.remarks import on_silence, on_steps
from raygap.data.prepare import prepare
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.data.store import Store, store_key
from raygap.errors import UserError
from raygap.search.job import run_sweep
from raygap.search.journal import mend_journal
from raygap.search.kept import check_storage, fetch_run
from raygap.search.learning import check_learnt
from raygap.search.plan import Plan, Sampler, locked, make_folder, make_plan, newest_run, read_plan, write_plan
from raygap.search.ray_start import use_cluster, which_ray
from raygap.search.study import check_resumed
from raygap.search.sweep import plan_placement
from raygap.storage import Storage, split_storage
from raygap.tracking.run_folder import JOURNAL, PLAN
from raygap.tracking.wandb.callback import check_login
from raygap.tracking.wandb.layout import Mode

RUNS = Path("runs")


@checked
def sweep(
    dataset: str,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    method: str | None = None,
    space: Path | None = None,
    trials: Count | None = None,
    epochs: Count | None = None,
    seed: Number | None = None,
    set: Fields | None = None,
    metric: str | None = None,
    patience: Count | None = None,
    sampler: Sampler | None = None,
    first: Sequence[str] | None = None,
    learn_from: Path | None = None,
    seeds: Number | None = None,
    stopper: str | None = None,
    time_budget: Seconds | None = None,
    concurrency: Count | None = None,
    workers_per_trial: Count | None = None,
    cpus_per_worker: Cpus | None = None,
    gpus_per_worker: Gpus | Literal["auto"] | None = None,
    address: str | None = None,
    name: str | None = None,
    out: Path | None = None,
    storage: str | None = None,
    resume: bool = False,
    cache: Path | None = None,
    max_quarantine: Share | None = None,
    trunk_gb: Gigabytes | None = None,
    wandb: Mode | None = None,
    wandb_project: str | None = None,
    wandb_entity: str | None = None,
    progress: bool = False,
) -> SweepRun:
    """Search a method's configuration on a data set; ends with the best one's test result over fresh seeds.

    The arguments are the options of `raygap sweep`, with the same defaults; `set` holds fields fixed, by dotted path:
    {"warmup.epochs": 3}. Several data sets are several calls. Ray goes on running for the next call; `ray.shutdown()`
    ends it. Raises UserError for bad input, and if no trial was complete; KeyboardInterrupt after Ctrl-C: the same data
    set and `out` with resume=True go on.
    """
    shown = Progress(progress)
    kept_in, kept_at = split_storage(storage)
    runs = kept_in / "runs" if kept_in else RUNS
    cache = cache or (kept_in / "stores" if kept_in else None)
    settings = present(
        trials=trials,
        test_seeds=seeds,
        cache=str(cache.resolve()) if cache else None,
        max_quarantine=max_quarantine,
        trunk_gb=trunk_gb,
        concurrency=concurrency,
        stopper=stopper,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        wandb=wandb,
        wandb_project=wandb_project,
        wandb_entity=wandb_entity,
        sampler=sampler,
        metric=metric,
        patience=patience,
        learn_from=str(learn_from.resolve()) if learn_from else None,
    )
    options = reader_options(splits, val, keep_overlap)
    if resume:
        kept = present(set=set, epochs=epochs, seed=seed, space=space, method=method, val=val)
        kept |= present(keep_overlap=keep_overlap or None, workers_per_trial=workers_per_trial)
        kept |= present(first=first, learn_from=learn_from, metric=metric)
        for argument in kept:
            raise UserError(f"{argument}: a resumed sweep keeps its plan; leave it out, or start another sweep")
        folder = out or (runs / name if name else newest_run(runs, dataset))
        if kept_at:
            fetch_run(_copy_of(folder, kept_at), folder)
        plan = read_plan(folder)
        if plan.dataset != dataset:
            raise UserError(f"dataset {dataset}: {folder} holds a sweep of {plan.dataset}")
        moved = str(root.resolve()) if root else plan.root  # the same data may lie elsewhere by now
        reader = replace(plan.reader, splits=options.splits or plan.reader.splits)
        plan = replace(plan, root=moved, reader=reader, **settings)
    else:
        fixed = given_fields(set, method)
        fixed |= present(epochs=epochs, seed=seed, **{"compute.workers": workers_per_trial})
        path, reader = find_source(dataset, root, options, cache)
        others = {"cache": str(default_cache().resolve()), "root": path and str(path), "reader": reader} | settings
        plan = make_plan(dataset, method, space, fixed, first or (), **others)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = out or runs / (name or f"{dataset}-{plan.fixed['method']}-{stamp}")
    if kept_at:
        plan = replace(plan, storage=_copy_of(folder, kept_at).uri)
    return _run(plan, folder, resume, address, time_budget, shown)


def _run(
    plan: Plan, folder: Path, resume: bool, address: str | None, time_budget: float | None, shown: Progress
) -> SweepRun:
    source = str(folder / PLAN) if (folder / PLAN).exists() else "search space"
    config = plan.check(source)
    use_cluster(address)
    plan_placement(plan, plan.concurrency)  # raises if the trials do not fit
    check_login(plan.wandb, plan.wandb_project, plan.wandb_entity)
    if plan.storage:
        check_storage(Storage(plan.storage), new=not resume)
    clip_list = read_clips(plan.dataset, Path(plan.root) if plan.root else None, plan.reader)
    make_folder(folder, new=not resume)
    with locked(folder):
        mended = mend_journal(folder / JOURNAL)
        notes = [*([mended] if mended else []), *(() if resume else plan.notes)]
        check_learnt(plan, store_key(clip_list, config.prepare))
        if resume:
            distributions = plan.search_space.distributions()
            check_resumed(folder, source, config, distributions, store_key(clip_list, config.prepare))
        with shown.preparing() as bar:
            quarantine = plan.max_quarantine
            store = prepare(clip_list, config.prepare, Path(plan.cache), max_quarantine=quarantine, progress=bar)
        write_plan(plan, folder)
        opened = Store.open(store)
        notes += on_silence(opened, config.prepare)
        notes += [] if "optimizer.batch_size" in plan.space else on_steps(opened, config)
        shown.note(notes)
        shown.say(f"sweep {folder}: {plan.trials} trials of {config.epochs} epochs, {config.method}; {which_ray()}")
        with shown.seeds(plan.test_seeds, config.epochs) as report:
            outcome = run_sweep(plan, folder, store, plan.concurrency, time_budget, report, quiet=not shown.shown)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.best is None:
        why = "; ".join(outcome.failures()[:1])
        raise UserError(f"{folder}: of {outcome.finished()} trials none is complete" + (f": {why}" if why else ""))
    return read_run(folder, (*notes, outcome.about_epochs(), *outcome.failures(), *outcome.about_gaps))


def _copy_of(folder: Path, storage: Storage) -> Storage:
    return storage.at("runs", folder.name)
