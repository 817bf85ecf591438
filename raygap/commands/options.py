"""What the commands share.

A command imports at its top what its options and their checks need, and what takes seconds to import (Ray, torch,
Optuna) where it is used, behind the checks: neither its help nor an error about the command line waits for it.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raygap.errors import UserError
from raygap.search.plan import AUTO, Sampler
from raygap.search.stopping import STOPPERS
from raygap.tracking.objectives import OBJECTIVES

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
Exclude = Annotated[
    Path | None,
    typer.Option(
        help="A CSV whose column id names clips to leave out, such as the spoiled.csv of a sweep or a diagnosis.",
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
