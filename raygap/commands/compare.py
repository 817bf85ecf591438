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
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from raygap.called import command
from raygap.commands.options import (
    DATA,
    MACHINE,
    SEARCH,
    TRAINING,
    WANDB,
    Address,
    Cache,
    KeepOverlap,
    SamplerName,
    Splits,
    Stopper,
    Val,
    check_shared,
    find_source,
    preparation_bar,
    reader_options,
    roots_by_dataset,
)
from raygap.data.prepared import default_cache
from raygap.data.readers import READERS, check_source, read_clips
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.schema import parse_assignments
from raygap.search.plan import locked, make_folder
from raygap.search.ray_start import use_cluster, which_ray
from raygap.search.space import SEARCHABLE, check_method
from raygap.tracking.run_folder import COMPARISON, JOURNAL
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
    console = Console()
    if trials and budget:
        raise UserError("--trials and --budget contradict each other; leave one out")
    chosen = _names(methods)
    for method in chosen:
        check_method(method)
    from raygap.search.comparison import Comparison, read_comparison

    settings: dict[str, Any] = {
        "wandb": wandb,
        "max_quarantine": max_quarantine,
        "trunk_gb": trunk_gb,
        "concurrency": concurrency,
        "sampler": sampler,
        "stopper": stopper,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    if resume:
        kept: dict[str, Any] = {"--dataset": dataset, "--budget": budget, "--epochs": epochs, "--set": assignments}
        kept |= {"--val": val, "--keep-overlap": keep_overlap or None, "--stopper": stopper}
        kept |= {"--out": out, "--cache": cache, "--protocol": protocol if protocol == "paper" else None}
        for option, value in kept.items():
            if value is not None:
                raise UserError(f"{option}: a resumed comparison keeps it; leave it out, or start another comparison")
        folders = sorted(file.parent for file in (*resume.glob(COMPARISON), *resume.glob(f"*/{COMPARISON}")))
        if not folders:
            raise UserError(f"{resume}: holds no comparison ({COMPARISON} is missing)")
        folder, comparisons = resume, {}
        noted = {place: read_comparison(place) for place in folders}
        roots = roots_by_dataset([earlier.dataset for earlier in noted.values()], root)
        for place, earlier in noted.items():
            if trials and earlier.budget:
                raise UserError(f"--trials {trials}: {place} compares at {earlier.budget_in_words()}; leave it out")
            changes: dict[str, Any] = {"trials": trials, "seeds": seeds}
            changes["methods"] = tuple(dict.fromkeys((*earlier.methods, *chosen)))
            changes["root"] = roots[earlier.dataset]  # the same data may lie elsewhere by now
            changes["reader"] = replace(earlier.reader, splits=str(splits.resolve())) if splits else None
            changes = {name: value for name, value in changes.items() if value is not None}
            comparisons[place] = replace(earlier, **changes)
    else:
        names = _names(dataset)
        if not names or not chosen:
            raise UserError("--dataset and --methods are needed, or --resume with a comparison's folder")
        fixed = parse_assignments(assignments or [], chosen) | ({"epochs": epochs} if epochs else {})
        for field, why in {"method": "--methods names them", "protocol": "give --protocol"}.items():
            if field in fixed:
                raise UserError(f"--set {field}: cannot be fixed here; {why}")
        folder = out or Path("runs") / file_name(f"compare-{'-'.join(names)}-{datetime.now():%Y%m%d-%H%M%S}")
        if folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"{folder}: is not empty; go on with --resume {shlex.quote(str(folder))}, or choose another --out"
            )
        roots = roots_by_dataset(list(names), root)
        options = reader_options(splits, val, keep_overlap)
        sources = {name: find_source(name, path, options, cache) for name, path in roots.items()}
        comparisons = {
            folder / file_name(name) if len(names) > 1 else folder: Comparison(
                name,
                str(path) if path else None,
                chosen,
                10_000 if budget else trials or 20,
                budget,
                5 if seeds is None else seeds,
                protocol == "paper",
                fixed,
                str((cache or default_cache()).resolve()),
                reader=reader,
            )
            for name, (path, reader) in sources.items()
        }
    check_shared(shared, len(comparisons))
    use_cluster(address)
    comparisons = {place: replace(comparison, **settings) for place, comparison in comparisons.items()}
    try:
        complete = _compare_all(console, comparisons, folder, shared)
    except KeyboardInterrupt:
        print(f"stopped; go on with: {command('compare', '--resume', str(folder))}")
        raise
    if not complete:
        sys.exit(1)


def _names(given: str | None) -> tuple[str, ...]:
    """Those of a list by comma, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (given or "").split(",") if name.strip()))


def _compare_all(console: Console, comparisons: dict[Path, "Comparison"], folder: Path, shared: bool) -> bool:
    """Run the comparison of each data set and print its table; whether every method has its result."""
    data = {
        place: (comparison.dataset, Path(comparison.root) if comparison.root else None, comparison.reader)
        for place, comparison in comparisons.items()
    }
    for source in data.values():
        check_source(*source)
    plans = {place: comparison.plans() for place, comparison in comparisons.items()}
    from raygap.commands.remarks import on_chance, on_silence, on_steps, print_remarks
    from raygap.data.prepare import prepare
    from raygap.data.store import Store, store_key
    from raygap.search.comparison import compare, write_comparison
    from raygap.search.journal import mend_journal
    from raygap.search.shared import Swept, find_shared, print_shared
    from raygap.search.study import check_resumed
    from raygap.search.sweep import plan_placement
    from raygap.tracking.comparison_table import legend, narrow, table
    from raygap.tracking.seed_results import seeds_bar
    from raygap.tracking.wandb.callback import check_login

    print(f"comparing {which_ray()}")
    jobs = []
    for place, comparison in comparisons.items():
        check_login(comparison.wandb)
        for plan in plans[place].values():
            plan_placement(plan, plan.concurrency)  # raises if the trials do not fit
        jobs.append((place, comparison, next(iter(plans[place].values())).check(), read_clips(*data[place])))
    for place, comparison, *_ in jobs:  # all of them first, so that --resume finds them after an interruption
        make_folder(place, new=False)
        write_comparison(comparison, place)
    swept: dict[str, list[Swept]] = {}
    complete = True
    for place, comparison, config, clip_list in jobs:
        with locked(place):
            key = store_key(clip_list, config.prepare)
            for name, plan in comparison.plans().items():
                if note := mend_journal(place / name / JOURNAL):
                    print_remarks([note])
                distributions = plan.search_space.distributions()
                check_resumed(place / name, str(place / COMPARISON), plan.check(), distributions, key)
            with preparation_bar(console) as progress:
                store = prepare(
                    clip_list,
                    config.prepare,
                    Path(comparison.cache),
                    max_quarantine=comparison.max_quarantine,
                    progress=progress,
                )
            opened = Store.open(store)
            print_remarks(on_silence(opened, config.prepare) + on_steps(opened, config))
            with seeds_bar(console, comparison.seeds, config.epochs) as report:
                results = compare(comparison, place, store, report, console.print)
        for method in comparison.methods:
            name = file_name(method)
            plan = replace(comparison.plans()[name], trunk_gb=0.0)  # its warm-ups are gone
            swept.setdefault(name, []).append(Swept(plan, place / name, store))
        header, *rows = narrow(table(results))
        shown = Table(box=SIMPLE, title=comparison.dataset)
        for name in header:
            shown.add_column(name, overflow="fold")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
        print(legend(comparison.budget_in_words(), comparison.seeds))
        for result in results:
            print("".join(f"{result.method}: {note}\n" for note in result.notes), end="")
            if result.seeds:
                reached = fmean(row["test_accuracy"] for row in result.seeds.values())
                print_remarks(on_chance(f"{result.method}: test accuracy", reached, opened, "test"))
        print("".join(f"{kind:10}{place / f'comparison.{kind}'}\n" for kind in ("md", "tex", "csv", "json")), end="")
        complete &= all(result.validation is not None and (result.seeds or not comparison.seeds) for result in results)
    for method, searches in swept.items() if shared else ():
        try:
            print_shared(
                f"{method}, ", *find_shared(searches, folder / f"shared-{method}", searches[0].plan.concurrency)
            )
        except UserError as error:  # the other methods' are still to come
            print(f"{method}: {error}")
    return complete
