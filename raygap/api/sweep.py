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
    Seconds,
    Share,
    Val,
    checked,
    given_fields,
    progress_of,
)
from raygap.api.results import SweepRun, read_run
from raygap.data.readers import read_clips
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.search.plan import Sampler, make_folder, newest_run
from raygap.search.ray_start import use_cluster
from raygap.storage import Storage
from raygap.tasks.source import find_source, present, reader_options, refuse_kept
from raygap.tasks.sweep import (
    check_surroundings,
    data_of,
    find_places,
    plan_again,
    plan_anew,
    plan_settings,
    run,
    source_of,
)
from raygap.tracking.wandb.layout import Mode


@checked
def sweep(
    dataset: str,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    exclude: Path | None = None,
    method: str | None = None,
    space: Path | None = None,
    trials: Count | None = None,
    epochs: Count | None = None,
    seed: Number | None = None,
    set: Fields | None = None,
    metric: str | None = None,
    patience: Count | None = None,
    seeds_per_trial: Count | None = None,
    keep_top: Count | None = None,
    sampler: Sampler | None = None,
    first: Sequence[str] | None = None,
    learn_from: Path | None = None,
    seeds: Number | None = None,
    references: bool | None = None,
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
    shown = progress_of(progress)
    use_cluster(address)
    runs, cache, copies = find_places(storage, cache)
    settings = plan_settings(
        cache,
        learn_from,
        trials=trials,
        test_seeds=seeds,
        references=references,
        max_quarantine=max_quarantine,
        trunk_gb=trunk_gb,
        concurrency=concurrency,
        stopper=stopper,
        sampler=sampler,
        metric=metric,
        patience=patience,
        seeds_per_trial=seeds_per_trial,
        keep_top=keep_top,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        wandb=wandb,
        wandb_project=wandb_project,
        wandb_entity=wandb_entity,
    )
    if resume:
        asked = present(set=set, epochs=epochs, seed=seed, space=space, method=method, val=val)
        asked |= present(keep_overlap=keep_overlap or None, exclude=exclude, workers_per_trial=workers_per_trial)
        asked |= present(first=first, learn_from=learn_from, metric=metric, seeds_per_trial=seeds_per_trial)
        refuse_kept(asked, "sweep keeps its plan")
        folder = out or (runs / name if name else newest_run(runs, dataset))
        plan = plan_again(folder, dataset, root, splits, settings, copies and _copy_of(folder, copies))
    else:
        fixed = given_fields(set, method)
        fixed |= present(epochs=epochs, seed=seed, **{"compute.workers": workers_per_trial})
        source = find_source(dataset, root, reader_options(splits, val, keep_overlap, exclude), cache, shown.say)
        plan = plan_anew(dataset, method, space, fixed, first or (), source, settings)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = out or runs / (name or file_name(f"{dataset}-{plan.fixed['method']}-{stamp}"))
    if copies:
        plan = replace(plan, storage=_copy_of(folder, copies).uri)
    plan.check(source_of(folder))
    check_surroundings(plan, resume)
    clips = read_clips(*data_of(plan))
    make_folder(folder, new=not resume)
    _, outcome, notes = run(plan, folder, clips, time_budget, resume, shown)
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.best is None:
        why = "; ".join(outcome.failures()[:1])
        raise UserError(f"{folder}: of {outcome.finished()} trials none is complete" + (f": {why}" if why else ""))
    words = (outcome.choice, *outcome.about_ensemble, outcome.about_epochs(), *outcome.failures(), *outcome.about_gaps)
    return read_run(folder, (*notes, *filter(None, words)))


def _copy_of(folder: Path, storage: Storage) -> Storage:
    return storage.at("runs", folder.name)
