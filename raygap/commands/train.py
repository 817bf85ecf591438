"""Train one configuration on several seeds and print the test result with its interval.

python launch/train.py --dataset demo --config runs/demo-gmm_scores-20260101-120000/best.yaml --seeds 5 --set seed=1
python launch/train.py --dataset demo --set method=joint --set epochs=20
"""

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from raygap.commands.options import (
    DATA,
    MACHINE,
    TRAINING,
    Address,
    Cache,
    CpusPerWorker,
    Exclude,
    GpusPerWorker,
    KeepOverlap,
    MaxQuarantine,
    Root,
    Splits,
    Val,
    Workers,
)
from raygap.config import flatten, load_yaml
from raygap.data.readers import READERS, check_source
from raygap.ending import user_errors
from raygap.plugins import file_name
from raygap.schema import parse_assignments
from raygap.search.ray_start import use_cluster
from raygap.tasks import train
from raygap.tasks.progress import Progress
from raygap.tasks.source import find_source, present, reader_options
from raygap.tracking.run_folder import TEST


@user_errors()
def main(
    dataset: Annotated[
        str, typer.Option(help=f"One of: {', '.join(READERS)}; or module:function.", rich_help_panel=DATA)
    ],
    root: Root = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A configuration, as a sweep's best.yaml; - is standard input.", rich_help_panel=TRAINING),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD:DATASET",
            help="Published settings of a method on a data set, in place of --config.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field; may be repeated.", rich_help_panel=TRAINING),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="All epochs, those of all stages together.", rich_help_panel=TRAINING)
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds, counted up from the configuration's own.", rich_help_panel=TRAINING)
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder.", show_default="runs/<dataset>-train-<time>", rich_help_panel=TRAINING),
    ] = None,
    splits: Splits = None,
    val: Val = None,
    keep_overlap: KeepOverlap = False,
    exclude: Exclude = None,
    cache: Cache = None,
    max_quarantine: MaxQuarantine = 0.05,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds at a time.", show_default="one a GPU or CPU", rich_help_panel=MACHINE),
    ] = None,
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
) -> None:
    """Train one configuration on several seeds and print the test result with its interval."""
    console, progress = Console(), Progress(Console())
    chosen = flatten(load_yaml(config)) if config else None
    given = parse_assignments(assignments or [], [str(chosen["method"])] if chosen and "method" in chosen else [])
    given |= present(epochs=epochs, **{"compute.workers": workers})
    source = find_source(dataset, root, reader_options(splits, val, keep_overlap, exclude), cache)
    use_cluster(address)
    trial, notes = train.make_trial(dataset, chosen, preset, given, str(config or "--set"), source, cache)
    check_source(dataset, *source)
    from raygap.tracking.seed_results import seeds_table

    progress.note(notes)
    folder = out or Path("runs") / f"{file_name(dataset)}-train-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    machine = train.Machine(concurrency, cpus_per_worker, gpus_per_worker)
    try:
        trained = train.run(trial, dataset, source, folder, seeds, machine, cache, max_quarantine, progress, config)
    except KeyboardInterrupt:
        print(f"stopped; the same command with --out {shlex.quote(str(folder))} goes on")
        raise
    results = trained.results
    for seed, reason in results.failed.items():
        print(f"seed {seed} failed: {reason}")
    if not results.rows:
        sys.exit(1)
    console.print(f"{results.title}:")
    console.print(seeds_table(results))
    progress.note(trained.doubts)
    print(f"results: {folder / TEST}\nfigures: {trained.no_figures or folder / 'figures'}")
    sys.exit(1 if results.failed else 0)
