"""raygap.compare: methods at equal budget on a data set."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from raygap.api.arguments import (
    Count,
    Fields,
    Gigabytes,
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
from raygap.api.results import MethodsCompared, read_run
from raygap.commands.remarks import on_silence, on_steps
from raygap.data.prepare import prepare
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.data.store import Store, store_key
from raygap.errors import UserError
from raygap.search.comparison import Comparison, read_comparison, write_comparison
from raygap.search.comparison import compare as compare_methods
from raygap.search.journal import mend_journal
from raygap.search.plan import Sampler, locked, make_folder
from raygap.search.ray_start import use_cluster
from raygap.search.study import check_resumed
from raygap.search.sweep import plan_placement
from raygap.tracking.comparison_table import long_rows, summary_rows
from raygap.tracking.run_folder import COMPARISON, JOURNAL
from raygap.tracking.wandb.callback import check_login
from raygap.tracking.wandb.layout import Mode


@checked
def compare(
    dataset: str | None = None,
    methods: Sequence[str] | None = None,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    trials: Count | None = None,
    budget: Seconds | None = None,
    seeds: Number | None = None,
    epochs: Count | None = None,
    protocol: Literal["validation", "paper"] = "validation",
    stopper: str | None = None,
    set: Fields | None = None,
    sampler: Sampler | None = None,
    concurrency: Count | None = None,
    address: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    cache: Path | None = None,
    max_quarantine: Share | None = None,
    trunk_gb: Gigabytes | None = None,
    wandb: Mode | None = None,
    progress: bool = False,
) -> MethodsCompared:
    """Search each method with the same budget, then train the chosen configurations on the same fresh seeds.

    The arguments are the options of `raygap compare`; `methods` is a list of names. Several data sets are several
    calls. `resume` is the folder of a comparison to go on with; trials, seeds and methods may add to it. Raises
    UserError for bad input, KeyboardInterrupt after Ctrl-C. A method without a result has a row without numbers.
    """
    if trials and budget:
        raise UserError("trials and budget contradict each other; leave one out")
    chosen = tuple(dict.fromkeys(methods or ()))
    settings = present(wandb=wandb, max_quarantine=max_quarantine, trunk_gb=trunk_gb, concurrency=concurrency)
    settings |= present(sampler=sampler, stopper=stopper)
    options = reader_options(splits, val, keep_overlap)
    if resume:
        kept = present(dataset=dataset, budget=budget, epochs=epochs, set=set, val=val, out=out, cache=cache)
        kept |= present(keep_overlap=keep_overlap or None, protocol=protocol if protocol == "paper" else None)
        kept |= present(stopper=stopper)
        for argument in kept:
            raise UserError(f"{argument}: a resumed comparison keeps it; leave it out, or start another comparison")
        if not (resume / COMPARISON).exists():
            raise UserError(f"{resume}: holds no comparison ({COMPARISON} is missing)")
        folder, comparison = resume, read_comparison(resume)
        if trials and comparison.budget:
            raise UserError(f"trials = {trials}: {folder} compares at {comparison.budget_in_words()}; leave it out")
        changes = present(trials=trials, seeds=seeds, root=str(root.resolve()) if root else None)
        changes["methods"] = tuple(dict.fromkeys((*comparison.methods, *chosen)))
        changes["reader"] = replace(comparison.reader, splits=options.splits or comparison.reader.splits)
        comparison = replace(comparison, **changes, **settings)
    else:
        if not dataset or not chosen:
            raise UserError("dataset and methods are needed, or resume with a comparison's folder")
        fixed = given_fields(set) | present(epochs=epochs)
        for field, why in {"method": "methods names them", "protocol": "give protocol"}.items():
            if field in fixed:
                raise UserError(f"set {field}: cannot be fixed here; {why}")
        folder = out or Path("runs") / f"compare-{dataset}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; go on with resume={str(folder)!r}, or choose another out")
        path, reader = find_source(dataset, root, options, cache)
        comparison = Comparison(
            dataset=dataset,
            root=str(path) if path else None,
            methods=chosen,
            trials=10_000 if budget else trials or 20,
            budget=budget,
            seeds=5 if seeds is None else seeds,
            paper=protocol == "paper",
            fixed=fixed,
            cache=str((cache or default_cache()).resolve()),
            reader=reader,
            **settings,
        )
    check_login(comparison.wandb)
    use_cluster(address)
    return _run(comparison, folder, Progress(progress))


def _run(comparison: Comparison, folder: Path, shown: Progress) -> MethodsCompared:
    plans = comparison.plans()
    for plan in plans.values():
        plan_placement(plan, plan.concurrency)  # raises if the trials do not fit
    root = Path(comparison.root) if comparison.root else None
    clip_list = read_clips(comparison.dataset, root, comparison.reader)
    config = next(iter(plans.values())).check()
    make_folder(folder, new=False)
    write_comparison(comparison, folder)
    with locked(folder):
        notes = []
        for name, plan in plans.items():
            if mended := mend_journal(folder / name / JOURNAL):
                notes.append(mended)
            distributions, key = plan.search_space.distributions(), store_key(clip_list, config.prepare)
            check_resumed(folder / name, str(folder / COMPARISON), plan.check(), distributions, key)
        with shown.preparing() as bar:
            cache, quarantine = Path(comparison.cache), comparison.max_quarantine
            store = prepare(clip_list, config.prepare, cache, max_quarantine=quarantine, progress=bar)
        opened = Store.open(store)
        notes += on_silence(opened, config.prepare) + on_steps(opened, config)
        shown.note(notes)
        with shown.seeds(comparison.seeds, config.epochs) as report:
            results = compare_methods(comparison, folder, store, report, shown.say, quiet=not shown.shown)
    notes += [f"{result.method}: {note}" for result in results for note in result.notes]
    table, seeds = (pd.DataFrame(rows, columns=header) for header, rows in (summary_rows(results), long_rows(results)))
    runs = {name: read_run(folder / name) for name in plans}
    return MethodsCompared(folder, table.set_index("method"), seeds, runs, tuple(notes))
