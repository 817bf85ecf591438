"""Search a method's configuration on a data set; ends with the best one and its test result over fresh seeds.

python launch/sweep.py --dataset demo
python launch/sweep.py --dataset manifest --root my_clips/ --method gmm_adaptive --trials 50 --epochs 40
python launch/sweep.py --dataset demo --resume
python launch/sweep.py --dataset cremad,ave --root cremad=/data/CREMA-D --root ave=/data/AVE --shared
"""

import math
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
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
    CpusPerWorker,
    Exclude,
    GpusOrAuto,
    KeepOverlap,
    Metric,
    Patience,
    SamplerName,
    Splits,
    Stopper,
    Val,
    Workers,
    check_shared,
    roots_by_dataset,
)
from raygap.data.clips import Split
from raygap.data.readers import READERS, check_source, read_clips
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.plugins import file_name
from raygap.schema import parse_assignments, to_mapping
from raygap.search.plan import Plan, make_folder, newest_run, write_plan
from raygap.search.ray_start import use_cluster, which_ray
from raygap.search.space import SEARCHABLE
from raygap.search.stopping import Warmup, make_rule
from raygap.storage import Storage
from raygap.tasks.progress import Progress
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
from raygap.tracking.run_folder import BASELINE, BEST, GUIDED, PLAN, REPORT, TRIALS
from raygap.tracking.wandb.layout import Mode

if TYPE_CHECKING:
    from raygap.search.job import Outcome


@user_errors()
def main(
    dataset: Annotated[
        str,
        typer.Option(
            help=f"One, or several by comma, of: {', '.join(READERS)}; or module:function.", rich_help_panel=DATA
        ),
    ],
    root: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of the data set, or a manifest CSV; NAME=FOLDER for each of several data sets.",
            rich_help_panel=DATA,
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"One of: {', '.join(SEARCHABLE)}; or module:Class.", rich_help_panel=SEARCH)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in all, also with --resume.", rich_help_panel=SEARCH)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs a trial, all stages together.", rich_help_panel=TRAINING)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="Hold a field fixed; may be repeated.", rich_help_panel=TRAINING
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run folder under runs/.", rich_help_panel=SEARCH)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/<name>", rich_help_panel=SEARCH)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a sweep (the newest without --name).", rich_help_panel=SEARCH)
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=0, help="Fresh seeds for the final test result.", show_default="3", rich_help_panel=SEARCH),
    ] = None,
    references: Annotated[
        bool | None,
        typer.Option(
            "--references/--no-references",
            help="Train on these seeds, too, what the chosen configuration is compared with.",
            show_default="references",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    space: Annotated[
        Path | None, typer.Option(help="A search space in place of search_spaces/.", rich_help_panel=SEARCH)
    ] = None,
    metric: Metric = None,
    patience: Patience = None,
    seeds_per_trial: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Judge a configuration by its mean over so many seeds, one after the other.",
            show_default="1",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    keep_top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Keep the weights of so many of the best trials; together they answer where validation says so.",
            show_default="1",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    sampler: SamplerName = None,
    first: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Try this configuration first: a file, or what raygap best reads (run folder, W&B); may be repeated.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    learn_from: Annotated[
        Path | None,
        typer.Option(
            help="Run folder of an earlier sweep of the same space and data, whose trials the sampler is to know.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="With several data sets: find the one configuration that suits all.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    stopper: Stopper = None,
    time_budget: Annotated[
        float | None, typer.Option(min=1, help="Seconds after which the sweep stops.", rich_help_panel=SEARCH)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print configuration, space and plan; do nothing.", rich_help_panel=SEARCH)
    ] = False,
    test_seeds: Annotated[
        int | None, typer.Option(min=0, hidden=True, help="As --seeds.", rich_help_panel=SEARCH)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the search and of each trial.", rich_help_panel=TRAINING)
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
    storage: Annotated[
        str | None,
        typer.Option(
            help="Folder that all machines share, for runs/ and stores/, or where they share none, an object store "
            "for copies of both: s3://BUCKET/PATH, gs://BUCKET/PATH.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusOrAuto = None,
    trunk_gb: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Limit of saved warm-ups beside the run folder; 0 trains each anew.",
            show_default="20",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    wandb: Annotated[
        Mode | None,
        typer.Option(
            help="Log to Weights & Biases.", show_default="online with a key, else offline", rich_help_panel=WANDB
        ),
    ] = None,
    wandb_project: Annotated[
        str | None,
        typer.Option(help="Project there.", show_default="WANDB_PROJECT, else raygap", rich_help_panel=WANDB),
    ] = None,
    wandb_entity: Annotated[
        str | None,
        typer.Option(
            help="Team or user there.", show_default="WANDB_ENTITY, else the key's own", rich_help_panel=WANDB
        ),
    ] = None,
) -> None:
    """Search a method's configuration on a data set."""
    console = Console()
    names = list(dict.fromkeys(dataset.split(",")))
    check_shared(shared, len(names))
    if time_budget is not None and not math.isfinite(time_budget):
        raise UserError(f"--time-budget {time_budget}: expected a number of seconds; leave it out for no limit")
    use_cluster(address)
    runs, cache, copies = find_places(storage, cache)
    settings = plan_settings(
        cache,
        learn_from,
        trials=trials,
        test_seeds=test_seeds if seeds is None else seeds,
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
        asked = present(set=assignments, epochs=epochs, seed=seed, space=space, method=method, val=val)
        asked |= present(keep_overlap=keep_overlap or None, exclude=exclude, workers_per_trial=workers)
        asked |= present(first=first, learn_from=learn_from, metric=metric, seeds_per_trial=seeds_per_trial)
        refuse_kept(asked, "sweep keeps its plan")
        if len(names) > 1 and not (out or name):
            raise UserError("--resume of several data sets: name their folder with --out or --name")
        folder = out or (runs / name if name else newest_run(runs, dataset))
        roots = roots_by_dataset(names, root)
        plans = {
            place: plan_again(
                place, dataset_name, roots[dataset_name], splits, settings, copies and _copy_of(place, folder, copies)
            )
            for dataset_name, place in _places(folder, names).items()
        }
    else:
        fixed = parse_assignments(assignments or [], [method] if method else [])
        fixed |= present(epochs=epochs, seed=seed, **{"compute.workers": workers})
        options = reader_options(splits, val, keep_overlap, exclude)
        roots = roots_by_dataset(names, root)
        made = {
            dataset_name: plan_anew(
                dataset_name,
                method,
                space,
                fixed,
                first or (),
                find_source(dataset_name, path, options, cache),
                settings,
            )
            for dataset_name, path in roots.items()
        }
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        methods = dict.fromkeys(plan.fixed["method"] for plan in made.values())
        folder = out or runs / (name or file_name(f"{'-'.join(names)}-{'-'.join(methods)}-{stamp}"))
        plans = {place: made[dataset_name] for dataset_name, place in _places(folder, names).items()}
    if copies:
        plans = {place: replace(plan, storage=_copy_of(place, folder, copies).uri) for place, plan in plans.items()}
    if shared and any(plan.fixed.get("protocol") == "paper" for plan in plans.values()):
        raise UserError("--shared: what suits all is found on validation; leave protocol=paper out")
    for place, plan in plans.items():
        plan.check(source_of(place))
    if not dry_run:  # whose data may lie in a cluster
        for plan in plans.values():
            check_source(*data_of(plan))
    if dry_run:
        for place, plan in plans.items():
            _print_plan(plan, place)
        return
    from raygap.search.shared import SHARED, Swept, find_shared, print_shared

    for plan in plans.values():
        check_surroundings(plan, resume)
    clips = {place: read_clips(*data_of(plan)) for place, plan in plans.items()}
    for place, plan in plans.items():
        make_folder(place, new=not resume)
        if len(plans) > 1:  # so that --resume finds those too that an interruption left no time for
            write_plan(plan, place)
    swept, exits = [], []
    for place, plan in plans.items():
        try:
            store, outcome, _ = run(plan, place, clips[place], time_budget, resume, Progress(console))
        except KeyboardInterrupt:
            known = (place / PLAN).exists()
            print(f"stopped; go on with: {_again(plan, place)}" if known else "stopped; the same command goes on")
            raise
        _print_outcome(console, plan, place, store, outcome)
        if outcome.interrupted:
            raise KeyboardInterrupt
        exits.append(1 if outcome.best is None or (outcome.test and not outcome.test.rows) else 0)
        swept.append(Swept(plan, place, store))
    if shared and len(swept) > 1:
        print_shared("configuration ", *find_shared(swept, folder, swept[0].plan.concurrency))
        print(f"all candidates: {folder / 'shared.csv'}; whole configurations: {folder}/<data set>/{SHARED}")
    if max(exits):
        sys.exit(max(exits))


def _places(folder: Path, datasets: list[str]) -> dict[str, Path]:
    """The run folder of each data set."""
    return {name: folder / file_name(name) for name in datasets} if len(datasets) > 1 else {datasets[0]: folder}


def _copy_of(place: Path, folder: Path, storage: Storage) -> Storage:
    """Of a run folder, which is `folder` or lies in it."""
    return storage.at("runs", folder.name, place.relative_to(folder).as_posix())


def _print_plan(plan: Plan, folder: Path) -> None:
    from raygap.search.cost import cost_of
    from raygap.search.placement import in_words
    from raygap.search.references import reference_configs
    from raygap.search.sweep import plan_placement

    config = plan.check()
    rule = make_rule(plan.stopper, config.epochs)
    longest = Warmup(config.warmup.epochs, None, find_method(config.method).starts_anew)
    at_once: list[str] | str
    places = 1
    try:
        placement = plan_placement(plan, plan.concurrency)
        places, at_once = placement.at_once, in_words(placement, config.compute.threads, plan.concurrency)
    except UserError as error:  # the plan may be meant for another cluster
        at_once = f"none here: {error}"
    sections: dict[str, dict[str, Any]] = {
        "configuration (searched stage lengths at their longest)": to_mapping(config),
        "search space": plan.space,
        "plan": {
            "dataset": plan.dataset,
            "trials": plan.trials,
            "epochs a trial": config.epochs,
            "early stopping": plan.stopper,
            "judged, with the longest warm-up, after epochs": list(rule.rungs(longest)),
            "trials at a time": at_once,
            "cost": cost_of(plan).lines(plan, places),
            "where": which_ray(),
            "test seeds": plan.test_seeds,
            "references": list(reference_configs(config)) if plan.references else [],
            "run folder": str(folder),
        },
    }
    if plan.notes:
        sections["plan"]["notes"] = list(plan.notes)
    for title, content in sections.items():
        print(f"# {title}\n{yaml.safe_dump(content, sort_keys=False, width=120)}")


def _again(plan: Plan, folder: Path) -> str:
    return command("sweep", "--dataset", plan.dataset, "--out", str(folder), "--resume")


def _print_outcome(console: Console, plan: Plan, folder: Path, store: Path, outcome: "Outcome") -> None:
    from raygap.search.job import judged_on
    from raygap.search.study import ENDED
    from raygap.tracking.seed_results import seeds_table, terminal_table

    again = _again(plan, folder)
    if outcome.best is None:
        print("\n".join(outcome.failures()))
        print(f"{outcome.finished()} of {plan.trials} trials ended, none complete; see {folder / TRIALS}")
        if outcome.finished() < plan.trials:
            print(f"go on with: {again}")
        else:
            print(f"mend what failed them (fields may be changed in {folder / PLAN}), then try all again with: {again}")
        return
    compared = outcome.worth and outcome.worth.sentence
    if compared:
        print(f"\n{compared}" + (f"\n{outcome.worth.advice}" if outcome.worth.advice else ""))
    console.print(
        f"\nbest of {outcome.finished()} trials: trial {outcome.best.number}, "
        f"{judged_on(plan)} {outcome.best.value:.3f}",
        highlight=False,
    )
    for path, value in outcome.best_fields().items():
        print(f"  {path}: {value:.4g}" if isinstance(value, float) else f"  {path}: {value}")
    print("".join(f"{line}\n" for line in outcome.failures()), end="")
    said = [*([outcome.choice] if outcome.choice else []), outcome.about_epochs(), *outcome.about_gaps]
    print("\n".join([*said, *outcome.about_ensemble]))
    if outcome.test and outcome.test.rows:
        console.print(f"\n{outcome.test.title}, chosen configuration, fresh seeds:")
        console.print(seeds_table(outcome.test))
    if compared:
        console.print("Beside its references, on the same seeds, in percent; differences are paired by seed, ± 95 %:")
        # A line below says what corrections change.
        console.print(terminal_table([row[:-1] for row in outcome.worth.table()]))
        print("\n".join(outcome.worth.lines()))
    Progress(console).note(_on_chance(plan, store, outcome))
    if plan.dataset == "demo":
        print(_on_planted(plan, folder, outcome))
    print(f"best configuration: {folder / BEST}")
    if compared and outcome.worth.baseline:
        print(f"baseline beside it: {folder / BASELINE}")
    if compared and outcome.worth.rival:
        print(f"guided beside it:   {folder / GUIDED}")
    if (folder / REPORT).exists():
        print(f"report:             {folder / REPORT}")
    print(f"all trials:         {folder / TRIALS}")
    if reason := outcome.study.user_attrs.get(ENDED):
        print(f"ended after {outcome.finished()} of {plan.trials} trials: {reason}")
    elif outcome.finished() < plan.trials:
        print(f"stopped after {outcome.finished()} of {plan.trials} trials; go on with: {again}")


def _on_planted(plan: Plan, folder: Path, outcome: "Outcome") -> str:
    """Only the demo knows which clips are damaged."""
    from raygap.data.demo.clips import ensure_demo
    from raygap.data.demo.truth import areas, planted
    from raygap.imbalance.gaussians import DegenerateMixture
    from raygap.tracking.spoiled import suspects, trainings_of

    try:
        found = suspects(trainings_of(folder, outcome.best.number), outcome.config.seed)
    except (DegenerateMixture, OSError) as error:
        return f"which clips the demo has damaged was not found: {error}"
    truth = planted(ensure_demo(Path(plan.root) if plan.root else None), found.ids.tolist())
    shown = ", ".join(f"{what} {area:.2f}" for what, area in areas(truth, found.found.good).items())
    return f"damage that the demo has planted, found with an area under the ROC curve of: {shown} (chance 0.50)"


def _on_chance(plan: Plan, store: Path, outcome: "Outcome") -> list[str]:
    from raygap.data.store import Store
    from raygap.search.job import judged_on
    from raygap.tasks.remarks import on_chance

    opened = Store.open(store)
    if outcome.test and outcome.test.rows:
        return on_chance("test accuracy", outcome.test.interval("test_accuracy").mean, opened, "test")
    split: Split = "test" if plan.fixed.get("protocol") == "paper" else "val"
    return on_chance(judged_on(plan), outcome.best.value, opened, split)
