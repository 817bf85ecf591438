"""A sweep of one data set: its plan, new or gone on with, and its run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raygap.data.clips import ClipList
from raygap.data.prepared import default_cache
from raygap.errors import UserError
from raygap.search.plan import Plan, locked, make_plan, read_plan, write_plan
from raygap.search.ray_start import which_ray
from raygap.storage import Storage, split_storage
from raygap.tasks.progress import Progress
from raygap.tasks.source import Source, fit_of, present
from raygap.tracking.run_folder import JOURNAL, PLAN
from raygap.training.check import check_trial

if TYPE_CHECKING:
    from raygap.search.job import Outcome

RUNS = Path("runs")


class Places(NamedTuple):
    """Where run folders and stores are kept, and their copies."""

    runs: Path
    cache: Path | None
    copies: Storage | None


def find_places(storage: str | None, cache: Path | None) -> Places:
    """Of --storage, a shared folder or an object store, and --cache."""
    kept_in, kept_at = split_storage(storage)
    stores = kept_in / "stores" if kept_in else None
    return Places(kept_in / "runs" if kept_in else RUNS, cache or stores, kept_at)


def plan_settings(cache: Path | None, learn_from: Path | None, **given: Any) -> dict[str, Any]:
    """Fields of a plan that are as their options: those that are given."""
    places = {"cache": cache, "learn_from": learn_from}
    return present(**{name: str(place.resolve()) if place else None for name, place in places.items()}, **given)


def plan_anew(
    dataset: str,
    method: str | None,
    space: Path | None,
    fixed: dict[str, Any],
    first: Sequence[str],
    source: Source,
    settings: dict[str, Any],
) -> Plan:
    """The plan of a new sweep. Raises UserError as make_plan does."""
    root, reader = source
    settings = {"cache": str(default_cache().resolve())} | settings
    fit = fit_of(dataset, source, Path(settings["cache"]))
    return make_plan(
        dataset, method, space, fixed, first, fit, root=str(root) if root else None, reader=reader, **settings
    )


def plan_again(
    folder: Path,
    dataset: str,
    root: Path | str | None,
    splits: Path | None,
    settings: dict[str, Any],
    copy: Storage | None,
) -> Plan:
    """The plan of a sweep gone on with, of which there may be the copy alone; its data may lie elsewhere by now."""
    if copy:
        from raygap.search.kept import fetch_run

        fetch_run(copy, folder)
    plan = read_plan(folder)
    if plan.dataset != dataset:
        raise UserError(f"--dataset {dataset}: {folder} holds a sweep of {plan.dataset}")
    reader = replace(plan.reader, splits=str(splits.resolve()) if splits else plan.reader.splits)
    return replace(plan, root=str(Path(root).resolve()) if root else plan.root, reader=reader, **settings)


def source_of(folder: Path) -> str:
    """Where a plan stands that may be wrong: in its folder if it has been written."""
    return str(folder / PLAN) if (folder / PLAN).exists() else "search space"


def data_of(plan: Plan) -> tuple[str, *Source]:
    """As read_clips takes it."""
    return plan.dataset, Path(plan.root) if plan.root else None, plan.reader


def check_surroundings(plan: Plan, resume: bool) -> None:
    """Raise UserError if the trials do not fit on the cluster, or W&B or the object store would refuse the sweep."""
    from raygap.search.kept import check_storage
    from raygap.search.sweep import plan_placement
    from raygap.tracking.wandb.callback import check_login

    plan_placement(plan, plan.concurrency)
    check_login(plan.wandb, plan.wandb_project, plan.wandb_entity)
    if plan.storage:
        check_storage(Storage(plan.storage), new=not resume)


class Swept(NamedTuple):
    """What came of it."""

    store: Path
    outcome: "Outcome"
    notes: list[str]


def run(
    plan: Plan, folder: Path, clips: ClipList, time_budget: float | None, resume: bool, progress: Progress
) -> Swept:
    """Prepare the data, then search and test. The run folder is there (make_folder)."""
    from raygap.data.prepare import prepare
    from raygap.data.store import Store, store_key
    from raygap.search.cost import cost_of, time_needed
    from raygap.search.job import run_sweep
    from raygap.search.journal import mend_journal
    from raygap.search.learning import check_learnt
    from raygap.search.references import reference_configs
    from raygap.search.study import check_resumed
    from raygap.search.sweep import plan_placement
    from raygap.tasks.remarks import on_silence, on_steps

    with locked(folder):
        config = plan.check(source_of(folder))
        mended = mend_journal(folder / JOURNAL)
        notes = [*([mended] if mended else []), *(() if resume else plan.notes)]
        progress.note(notes)
        key = store_key(clips, config.prepare)
        check_learnt(plan, key)
        if resume:
            distributions = plan.search_space.distributions()
            check_resumed(folder, source_of(folder), config, distributions, key)
        with progress.preparing() as bar:
            store = prepare(clips, config.prepare, Path(plan.cache), max_quarantine=plan.max_quarantine, progress=bar)
        opened = Store.open(store)
        check_trial(config, opened)
        write_plan(plan, folder)
        of_data = on_silence(opened, config.prepare)
        of_data += [] if "optimizer.batch_size" in plan.space else on_steps(opened, config)
        progress.note(of_data)
        progress.say(
            f"{'going on with' if resume else 'sweep'} {folder}: {plan.trials} trials of {config.epochs} epochs, "
            f"{config.method} on {plan.dataset}; {which_ray()}"
        )
        places = plan_placement(plan, plan.concurrency).at_once
        trainings = plan.test_seeds * (1 + (len(reference_configs(config)) if plan.references else 0))
        cost = cost_of(plan, len(opened.class_names), opened.channels)
        epochs = cost.epochs - cost.shared + trainings * config.epochs
        for line in (*cost.lines(plan, places), *time_needed(config, opened, epochs, places)):
            progress.say(f"  {line}")
        with progress.seeds(trainings, config.epochs) as report:
            quiet = not progress.shown
            outcome = run_sweep(plan, folder, store, plan.concurrency, time_budget, report, quiet=quiet)
    return Swept(store, outcome, notes + of_data)
