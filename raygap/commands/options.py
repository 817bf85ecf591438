"""What the commands share.

A command imports at its top what its options and their checks need, and what takes seconds to import (Ray, torch,
Optuna) where it is used, behind the checks: neither its help nor an error about the command line waits for it.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raygap.data.clips import ReaderOptions
from raygap.data.prepared import default_cache, noted_source
from raygap.data.readers import find_reader
from raygap.errors import UserError
from raygap.search.plan import AUTO, Sampler
from raygap.search.stopping import STOPPERS
from raygap.tracking.objectives import OBJECTIVES
from raygap.tracking.run_folder import PLAN

# The groups in which --help shows options.
DATA, SEARCH, TRAINING, MACHINE, WANDB = "Data", "Search", "Training", "Machine", "Weights & Biases"

Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the data set, or a manifest CSV.",
        show_default="as prepare read it last",
        rich_help_panel=DATA,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Where stores are kept.", show_default="RAYGAP_CACHE, else ~/.cache/raygap", rich_help_panel=DATA
    ),
]
MaxQuarantine = Annotated[
    float, typer.Option(min=0, max=1, help="Share of clips that may be unusable.", rich_help_panel=DATA)
]
Splits = Annotated[
    Path | None,
    typer.Option(help="Folder of the split files.", show_default="that of the data set", rich_help_panel=DATA),
]
Val = Annotated[
    Literal["stratified", "actors"] | None,
    typer.Option(help="How validation is carved from train (cremad).", show_default="stratified", rich_help_panel=DATA),
]
KeepOverlap = Annotated[
    bool,
    typer.Option(
        "--keep-overlap",
        help="Leave clips in train that stand in val or test too (ave, kinetic_sound).",
        rich_help_panel=DATA,
    ),
]

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers-per-trial",
        min=1,
        help="Processes that train a trial together, a GPU each.",
        show_default="1",
        rich_help_panel=MACHINE,
    ),
]
CpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--cpus-per-worker",
        min=0.001,
        help="CPUs of each.",
        show_default="compute.threads, or a share",
        rich_help_panel=MACHINE,
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker",
        min=0,
        help="GPUs of each, or a part of one.",
        show_default="1, or a share",
        rich_help_panel=MACHINE,
    ),
]


def _number_or_auto(given: str) -> float | str:
    with suppress(ValueError):
        if given == AUTO or 0 <= float(given) < math.inf:
            return given if given == AUTO else float(given)
    raise typer.BadParameter(f"{given!r}: expected a number from 0 on, or {AUTO}")


GpusOrAuto = Annotated[
    Any,
    typer.Option(
        "--gpus-per-worker",
        parser=_number_or_auto,
        metavar="FLOAT|auto",
        help="GPUs of each, or a part of one; auto: as the memory that the first trial took lets others share one.",
        show_default="1, or a share",
        rich_help_panel=MACHINE,
    ),
]

SamplerName = Annotated[
    Sampler | None,
    typer.Option(
        "--sampler", help="What suggests the trials, of Optuna's.", show_default="tpe", rich_help_panel=SEARCH
    ),
]

Metric = Annotated[
    str | None,
    typer.Option(
        help=f"What a trial is judged on, of its selected epoch: {', '.join(OBJECTIVES)}; or several by comma, of "
        "which the first stops trials and ranks them.",
        show_default="accuracy",
        rich_help_panel=SEARCH,
    ),
]

Stopper = Annotated[
    str | None,
    typer.Option(
        help=f"How trials are stopped early: {', '.join(STOPPERS)} (as asha, but not before epoch N).",
        show_default="asha",
        rich_help_panel=SEARCH,
    ),
]

Patience = Annotated[
    int | None,
    typer.Option(min=1, help="End the search after so many trials without improvement.", rich_help_panel=SEARCH),
]

Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to work on: HOST:PORT of its head, or auto, the one on this machine.",
        show_default="RAY_ADDRESS, else a Ray of its own",
        rich_help_panel=MACHINE,
    ),
]


def reader_options(
    splits: Path | None, val: Literal["stratified", "actors"] | None, keep_overlap: bool
) -> ReaderOptions:
    """The three options above, as read_clips takes them."""
    return ReaderOptions(str(splits.resolve()) if splits else None, val, keep_overlap)


def find_source(
    dataset: str, root: Path | str | None, options: ReaderOptions, cache: Path | None
) -> tuple[Path | None, ReaderOptions]:
    """Where a data set is read from and how: as given, or, without a root, as `prepare` noted it in the cache.

    A given root wins over the whole note, a given option over the noted one. Nothing is opened: what was noted may be
    gone, and read_clips says so. Raises UserError for an unknown data set.
    """
    if root or not find_reader(dataset).root:
        return Path(root) if root else None, options
    noted = noted_source(cache or default_cache(), dataset)
    if noted is None:
        return None, options
    noted_root, earlier = noted
    print(f"reading {dataset} from {noted_root}, as prepared last")
    return noted_root, replace(
        earlier,
        splits=options.splits or earlier.splits,
        val=options.val or earlier.val,
        keep_overlap=options.keep_overlap or earlier.keep_overlap,
    )


def check_network(path: Path) -> None:
    """Raise UserError unless this is a file, as a best.pt is, or a folder that holds a sweep."""
    if path.is_dir() and not (path / PLAN).exists():
        raise UserError(f"{path}: holds no sweep ({PLAN} is missing); give its folder, or a best.pt")
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")


def check_shared(shared: bool, datasets: int) -> None:
    """Raise UserError for --shared with a single data set."""
    if shared and datasets == 1:
        raise UserError("--shared: one data set has nobody to share with; name several with --dataset, or leave it out")


def roots_by_dataset(datasets: list[str], given: list[str] | None) -> dict[str, str | None]:
    """--root FOLDER of one data set, or --root NAME=FOLDER of each of several; None where it is not given."""
    given = given or []
    if len(datasets) == 1:
        if len(given) > 1:
            raise UserError(f"--root {given[1]}: one data set has one root")
        return {datasets[0]: str(Path(given[0].removeprefix(f"{datasets[0]}=")).resolve()) if given else None}
    roots: dict[str, str | None] = dict.fromkeys(datasets)
    for entry in given:
        name, equals, folder = entry.partition("=")
        if not equals or name not in roots:
            raise UserError(
                f"--root {entry}: with several data sets, expected NAME=FOLDER with one of {', '.join(roots)}"
            )
        roots[name] = str(Path(folder).resolve())
    return roots


LINE_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal for a bar."""


def _plain_lines(console: Console) -> Callable[[int, int], None]:
    first: tuple[float, int] | None = None  # when, and what a resumed preparation had finished by then
    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first is None:
            first, last = (now, done), now
        if now - last < LINE_EVERY:
            return
        last = now
        rate = max(done - first[1], 1) / (now - first[0])
        left = f"{(total - done) / rate / 60:.0f} min left"
        console.print(f"decoding {done} of {total} clips, {rate:.1f} clips/s, {left}", highlight=False, soft_wrap=True)

    return show


@contextmanager
def preparation_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with clips/s and time left; yields the callback that `prepare` reports to.

    Without a terminal, as in a Slurm job's log, it is a plain line every LINE_EVERY seconds.
    """
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("decoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("decoding", total=None, rate="", visible=False)

        def show(done: int, total: int) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.0f} clips/s" if speed else "", visible=True)

        yield show
