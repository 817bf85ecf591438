"""Compare methods at equal budget: a search a method, then the chosen configurations on the same fresh test seeds.

python launch/compare.py --dataset demo --methods joint,unimodal_losses,gmm_scores --trials 8 --seeds 5
python launch/compare.py --dataset cremad,ave --root cremad=/data/CREMA-D --root ave=/data/AVE --methods joint,ogm_ge
python launch/compare.py --resume runs/compare-demo-20260101-120000
"""

import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from raygap.called import command
from raygap.commands.options import (
    DATA,
    MACHINE,
    SEARCH,
    TRAINING,
    WANDB,
    Address,
    Cache,
    Exclude,
    KeepOverlap,
    SamplerName,
    Splits,
    Stopper,
    Val,
    check_shared,
    roots_by_dataset,
)
from raygap.data.readers import READERS, check_source, read_clips
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.schema import parse_assignments
from raygap.search.plan import make_folder
from raygap.search.ray_start import use_cluster, which_ray
from raygap.search.space import SEARCHABLE, check_method
from raygap.tasks.progress import Progress
from raygap.tasks.source import find_source, present, reader_options, refuse_kept
from raygap.tracking.run_folder import COMPARISON, REPORT
from raygap.tracking.wandb.layout import Mode

if TYPE_CHECKING:
    from raygap.search.comparison import Comparison


@user_errors()
def main(
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"One or several, by comma, of: {', '.join(READERS)}; or module:function.", rich_help_panel=DATA
        ),
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option(help="Folder of the data set; NAME=FOLDER for each of several.", rich_help_panel=DATA),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"By comma, of: {', '.join(SEARCHABLE)}; or module:Class.", rich_help_panel=SEARCH),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials a method.", show_default="20", rich_help_panel=SEARCH)
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds that a method's trials take together, in place of --trials.", rich_help_panel=SEARCH
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=0, help="Fresh seeds of each chosen configuration on test.", show_default="5", rich_help_panel=SEARCH
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Its folder.", show_default="runs/compare-<dataset>-<time>", rich_help_panel=SEARCH),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the comparison in this folder; --trials, --seeds and --methods may add to it.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="With several data sets: the configuration that suits all, a method.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    protocol: Annotated[
        Literal["validation", "paper"],
        typer.Option(
            help="paper: beside it, a second search a method that chooses on test, labelled so.", rich_help_panel=SEARCH
        ),
    ] = "validation",
    space: Annotated[
        Path | None,
        typer.Option(
            help="A search space in place of search_spaces/, for all methods; each gets the fields that it has.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    sampler: SamplerName = None,
    stopper: Stopper = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs a trial, all stages together.", rich_help_panel=TRAINING)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Hold a field fixed for all methods.", rich_help_panel=TRAINING
        ),
    ] = None,
    splits: Splits = None,
    val: Val = None,
    keep_overlap: KeepOverlap = False,
    exclude: Exclude = None,
    cache: Cache = None,
    max_quarantine: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of clips that may be unusable.", show_default="0.05", rich_help_panel=DATA
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time.", show_default="one a GPU or CPU", rich_help_panel=MACHINE),
    ] = None,
    address: Address = None,
    trunk_gb: Annotated[
        float | None,
        typer.Option(
            min=0, help="Limit of saved warm-ups; 0 trains each anew.", show_default="20", rich_help_panel=MACHINE
        ),
    ] = None,
    wandb: Annotated[
        Mode | None,
        typer.Option(
            help="Log to Weights & Biases.", show_default="online with a key, else offline", rich_help_panel=WANDB
        ),
    ] = None,
) -> None:
    """Compare methods at equal budget."""
    chosen = _names(methods)
    for method in chosen:
        check_method(method)
    from raygap.search.comparison import Comparison
    from raygap.tasks.compare import compare_again, compare_anew

    use_cluster(address)
    settings = present(wandb=wandb, max_quarantine=max_quarantine, trunk_gb=trunk_gb, concurrency=concurrency)
    settings |= present(sampler=sampler, stopper=stopper)
    comparisons: dict[Path, Comparison]
    if resume:
        asked = present(dataset=dataset, budget=budget, epochs=epochs, set=assignments, val=val, out=out, cache=cache)
        asked |= present(space=space)
        asked |= present(
            keep_overlap=keep_overlap or None, exclude=exclude, protocol=protocol if protocol == "paper" else None
        )
        asked |= present(stopper=stopper)
        refuse_kept(asked, "comparison keeps it")
        places = sorted(file.parent for file in (*resume.glob(COMPARISON), *resume.glob(f"*/{COMPARISON}")))
        if not places:
            raise UserError(f"{resume}: holds no comparison ({COMPARISON} is missing)")
        folder = resume
        comparisons = {
            place: compare_again(place, chosen, None, splits, trials=trials, seeds=seeds, **settings)
            for place in places
        }
        roots = roots_by_dataset([comparison.dataset for comparison in comparisons.values()], root)
        comparisons = {
            place: replace(comparison, root=roots[comparison.dataset] or comparison.root)
            for place, comparison in comparisons.items()
        }
    else:
        names = _names(dataset)
        if not names or not chosen:
            raise UserError("--dataset and --methods are needed, or --resume with a comparison's folder")
        fixed = parse_assignments(assignments or [], chosen) | present(epochs=epochs)
        folder = out or Path("runs") / file_name(f"compare-{'-'.join(names)}-{datetime.now():%Y%m%d-%H%M%S}")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder}: is not empty; go on with --resume {shlex.quote(str(folder))}, or choose another --out"
            )
        roots = roots_by_dataset(list(names), root)
        options = reader_options(splits, val, keep_overlap, exclude)
        what: dict[str, Any] = {"trials": trials, "budget": budget, "seeds": seeds, "space": space, "cache": cache}
        comparisons = {
            folder / file_name(name) if len(names) > 1 else folder: compare_anew(
                name, chosen, find_source(name, path, options, cache), fixed, protocol=protocol, **what, **settings
            )
            for name, path in roots.items()
        }
    check_shared(shared, len(comparisons))
    try:
        complete = _compare_all(comparisons, folder, shared)
    except KeyboardInterrupt:
        print(f"stopped; go on with: {command('compare', '--resume', str(folder))}")
        raise
    if not complete:
        sys.exit(1)


def _print_table(rows: list[list[str]], console: Console) -> None:
    """As wide as a terminal lets it be; anything else takes all columns."""
    from raygap.tracking.comparison_table import for_terminal

    shown, left_out = for_terminal(rows, console.width if console.is_terminal else None)
    Console(width=max(console.width, Console(width=10_000).measure(shown).maximum)).print(shown)
    if left_out:
        print(f"left out for want of width: {', '.join(left_out)}; comparison.md has all")


def _names(given: str | None) -> tuple[str, ...]:
    """Those of a list by comma, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))


def _compare_all(comparisons: dict[Path, "Comparison"], folder: Path, shared: bool) -> bool:
    """Run the comparison of each data set and print its table; whether every method has its result."""
    data = {
        place: (comparison.dataset, Path(comparison.root) if comparison.root else None, comparison.reader)
        for place, comparison in comparisons.items()
    }
    for source in data.values():
        check_source(*source)
    for comparison in comparisons.values():
        comparison.plans()  # raises for whatever would make a trial fail
    from raygap.data.store import Store
    from raygap.search.comparison import write_comparison
    from raygap.search.shared import Swept, find_shared, print_shared
    from raygap.tasks.compare import check_surroundings, run
    from raygap.tasks.remarks import on_chance
    from raygap.tracking.comparison_outcome import outcome
    from raygap.tracking.comparison_table import legend, table

    progress = Progress(Console())
    print(f"comparing {which_ray()}")
    for comparison in comparisons.values():
        check_surroundings(comparison)
    clips = {place: read_clips(*source) for place, source in data.items()}
    for place, comparison in comparisons.items():  # all, so that --resume finds them after an interruption
        make_folder(place, new=False)
        write_comparison(comparison, place)
    swept: dict[str, list[Swept]] = {}
    complete = True
    for place, comparison in comparisons.items():
        store, results, _ = run(comparison, place, clips[place], progress)
        for method in comparison.methods:
            name = file_name(method)
            plan = replace(comparison.plans()[name], trunk_gb=0.0)  # its warm-ups are gone
            swept.setdefault(name, []).append(Swept(plan, place / name, store))
        print(f"{comparison.dataset}: {outcome(results)}")
        _print_table(table(results), progress.console)
        print(legend(comparison.budget_in_words(), comparison.seeds))
        opened = Store.open(store)
        for result in results:
            print("".join(f"{result.method}: {note}\n" for note in result.notes), end="")
            if result.seeds:
                reached = fmean(row["test_accuracy"] for row in result.seeds.values())
                progress.note(on_chance(f"{result.method}: test accuracy", reached, opened, "test"))
        written = [REPORT, *(f"comparison.{kind}" for kind in ("md", "tex", "csv", "json"))]
        print("".join(f"{name:17}{place / name}\n" for name in written if (place / name).exists()), end="")
        complete &= all(result.validation is not None and (result.seeds or not comparison.seeds) for result in results)
    for method, searches in swept.items() if shared else ():
        try:
            print_shared(
                f"{method}, ", *find_shared(searches, folder / f"shared-{method}", searches[0].plan.concurrency)
            )
        except UserError as error:  # the other methods' are still to come
            print(f"{method}: {error}")
    return complete
