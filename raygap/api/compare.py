"""raygap.compare: methods at equal budget on a data set."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from raygap.api.arguments import (
    Count,
    Fields,
    Gigabytes,
    Number,
    Seconds,
    Share,
    Val,
    checked,
    given_fields,
    progress_of,
)
from raygap.api.results import MethodsCompared, read_run
from raygap.data.readers import read_clips
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.search.comparison import write_comparison
from raygap.search.plan import Sampler, make_folder
from raygap.search.ray_start import use_cluster
from raygap.tasks.compare import check_surroundings, compare_again, compare_anew, run
from raygap.tasks.source import find_source, present, reader_options, refuse_kept
from raygap.tracking.comparison_table import long_rows, summary_rows
from raygap.tracking.run_folder import COMPARISON
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
    exclude: Path | None = None,
    trials: Count | None = None,
    budget: Seconds | None = None,
    seeds: Number | None = None,
    epochs: Count | None = None,
    space: Path | None = None,
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
    shown = progress_of(progress)
    use_cluster(address)
    settings = present(wandb=wandb, max_quarantine=max_quarantine, trunk_gb=trunk_gb, concurrency=concurrency)
    settings |= present(sampler=sampler, stopper=stopper)
    if resume:
        asked = present(dataset=dataset, budget=budget, epochs=epochs, set=set, val=val, out=out, cache=cache)
        asked |= present(space=space)
        asked |= present(
            keep_overlap=keep_overlap or None, exclude=exclude, protocol=protocol if protocol == "paper" else None
        )
        asked |= present(stopper=stopper)
        refuse_kept(asked, "comparison keeps it")
        if not (resume / COMPARISON).exists():
            raise UserError(f"{resume}: holds no comparison ({COMPARISON} is missing)")
        folder = resume
        comparison = compare_again(folder, methods or (), root, splits, trials=trials, seeds=seeds, **settings)
    else:
        if not dataset or not methods:
            raise UserError("--dataset and --methods are needed, or --resume with a comparison's folder")
        fixed = given_fields(set) | present(epochs=epochs)
        folder = out or Path("runs") / file_name(f"compare-{dataset}-{datetime.now():%Y%m%d-%H%M%S}")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; go on with resume={str(folder)!r}, or choose another out")
        source = find_source(dataset, root, reader_options(splits, val, keep_overlap, exclude), cache, shown.say)
        what: dict[str, Any] = {"trials": trials, "budget": budget, "seeds": seeds, "space": space, "cache": cache}
        comparison = compare_anew(dataset, methods, source, fixed, protocol=protocol, **what, **settings)
    comparison.plans()  # raises for whatever would make a trial fail
    check_surroundings(comparison)
    clips = read_clips(comparison.dataset, Path(comparison.root) if comparison.root else None, comparison.reader)
    make_folder(folder, new=False)
    write_comparison(comparison, folder)
    _, results, notes = run(comparison, folder, clips, shown)
    notes += [f"{result.method}: {note}" for result in results for note in result.notes]
    table, seeds_of = (pd.DataFrame(rows, columns=head) for head, rows in (summary_rows(results), long_rows(results)))
    runs = {name: read_run(folder / name) for name in comparison.plans()}
    return MethodsCompared(folder, table.set_index("method"), seeds_of, runs, tuple(notes))
