"""A comparison of methods on one data set: what is compared, anew or gone on with, and its run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from raygap.config import load_yaml, with_whole_paths
from raygap.data.clips import ClipList
from raygap.data.prepared import default_cache
from raygap.errors import UserError
from raygap.search.comparison import Comparison, read_compared_space, read_comparison
from raygap.search.plan import locked
from raygap.tasks.progress import Progress
from raygap.tasks.source import Source, fit_of, present
from raygap.tracking.comparison_table import MethodResult
from raygap.tracking.run_folder import COMPARISON, JOURNAL
from raygap.training.check import check_trial


def compare_anew(
    dataset: str,
    methods: Sequence[str],
    source: Source,
    fixed: dict[str, Any],
    *,
    trials: int | None,
    budget: float | None,
    seeds: int | None,
    space: Path | None,
    protocol: str,
    cache: Path | None,
    **settings: Any,
) -> Comparison:
    """A new comparison. Raises UserError for what contradicts itself; Comparison.plans finds the rest."""
    if trials and budget:
        raise UserError("--trials and --budget contradict each other; leave one out")
    for field, why in {"method": "--methods names them", "protocol": "give --protocol"}.items():
        if field in fixed:
            raise UserError(f"--set {field}: cannot be fixed here; {why}")
    root, reader = source
    own = read_compared_space(space, methods) if space else None
    cache = (cache or default_cache()).resolve()
    named = load_yaml(space).get("trials") if space else None  # own.trials is a sweep's default where it is not
    return Comparison(
        dataset=dataset,
        root=str(root) if root else None,
        methods=tuple(dict.fromkeys(methods)),
        trials=10_000 if budget else trials or named or 20,
        budget=budget,
        seeds=5 if seeds is None else seeds,
        paper=protocol == "paper",
        fixed=with_whole_paths(fixed),
        space=own,
        cache=str(cache),
        reader=reader,
        fit=fit_of(dataset, source, cache),
        **settings,
    )


def compare_again(
    folder: Path,
    methods: Sequence[str],
    root: Path | str | None,
    splits: Path | None,
    *,
    trials: int | None,
    seeds: int | None,
    **settings: Any,
) -> Comparison:
    """A comparison gone on with: trials, seeds and methods may add to it, and its data may lie elsewhere by now."""
    earlier = read_comparison(folder)
    if trials and earlier.budget:
        raise UserError(f"--trials {trials}: {folder} compares at {earlier.budget_in_words()}; leave it out")
    changes = present(trials=trials, seeds=seeds, root=str(Path(root).resolve()) if root else None)
    changes["methods"] = tuple(dict.fromkeys((*earlier.methods, *methods)))
    changes["reader"] = replace(earlier.reader, splits=str(splits.resolve()) if splits else earlier.reader.splits)
    return replace(earlier, **changes, **settings)


def check_surroundings(comparison: Comparison) -> None:
    """Raise UserError if trials do not fit on the cluster, or W&B would refuse them."""
    from raygap.search.sweep import plan_placement
    from raygap.tracking.wandb.callback import check_login

    check_login(comparison.wandb)
    for plan in comparison.plans().values():
        plan_placement(plan, plan.concurrency)


class Compared(NamedTuple):
    """What came of it."""

    store: Path
    results: list[MethodResult]
    notes: list[str]


def run(comparison: Comparison, folder: Path, clips: ClipList, progress: Progress) -> Compared:
    """Prepare the data, search each method and test what was chosen. The folder is there, with comparison.yaml."""
    from raygap.data.prepare import prepare
    from raygap.data.store import Store, store_key
    from raygap.search.comparison import compare
    from raygap.search.cost import time_needed
    from raygap.search.journal import mend_journal
    from raygap.search.study import check_resumed
    from raygap.search.sweep import plan_placement
    from raygap.tasks.remarks import on_silence, on_steps

    plans = comparison.plans()
    config = next(iter(plans.values())).check()
    with locked(folder):
        key, notes = store_key(clips, config.prepare), list(comparison.fit.lines if comparison.fit else ())
        for name, plan in plans.items():
            if mended := mend_journal(folder / name / JOURNAL):
                notes.append(mended)
            distributions = plan.search_space.distributions()
            check_resumed(folder / name, str(folder / COMPARISON), plan.check(), distributions, key)
        with progress.preparing() as bar:
            cache, quarantine = Path(comparison.cache), comparison.max_quarantine
            store = prepare(clips, config.prepare, cache, max_quarantine=quarantine, progress=bar)
        opened = Store.open(store)
        for plan in plans.values():
            check_trial(plan.check(), opened)
        notes += on_silence(opened, config.prepare) + on_steps(opened, config)
        progress.note(notes)
        if not comparison.budget:
            searched = sum(plan.trials + plan.test_seeds for plan in plans.values())
            places = plan_placement(next(iter(plans.values())), comparison.concurrency).at_once
            for line in time_needed(config, opened, searched * config.epochs, places):
                progress.say(f"  {line}")
        with progress.seeds(comparison.seeds, config.epochs) as report:
            quiet = not progress.shown
            results = compare(comparison, folder, store, report, progress.say, quiet=quiet)
    return Compared(store, results, notes)
