"""Methods at equal budget: a sweep a method, on the same data, seeds and shared fields; then one table.

A comparison's folder holds comparison.yaml, a run folder a method (as launch/sweep.py leaves it, with `-paper` behind
the name for the search that chooses on test), report.html, and comparison.{md,tex,csv,json}, with single seeds in
seeds.csv.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import yaml
from pydantic import ConfigDict, Field

from raygap.config import flatten, load_yaml
from raygap.data.clips import ReaderOptions
from raygap.data.fit import Fit
from raygap.errors import UserError
from raygap.extras import lacking
from raygap.plugins import file_name
from raygap.provenance import in_words, made_by
from raygap.schema import check_known, field_paths
from raygap.search.plan import Plan, Sampler, make_folder, make_plan, read_as, read_plan, write_plan
from raygap.search.space import FOLDER, SearchSpace, check_method, load_space, parse_space, read_space
from raygap.tracking import comparison_outcome
from raygap.tracking.comparison_table import (
    RESULTS,
    MethodResult,
    budget_in_words,
    latex,
    legend,
    long_rows,
    markdown,
    read_results,
    shared_seeds,
    summary_rows,
    table,
)
from raygap.tracking.run_folder import COMPARISON, PLAIN, with_facts, write_csv, write_text
from raygap.tracking.seed_results import Reporter
from raygap.tracking.wandb.layout import Mode

if TYPE_CHECKING:  # what is compared is checked before what searches is imported
    import optuna

    from raygap.search.job import Outcome

PAPER = "-paper"


@dataclass(frozen=True)
class Comparison:
    """What is compared on one data set. `budget`, seconds that a method's trials take together, replaces `trials`."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    dataset: str
    root: str | None
    methods: tuple[str, ...]
    trials: Annotated[int, Field(ge=1)]
    budget: Annotated[float, Field(ge=1)] | None
    seeds: Annotated[int, Field(ge=0)]
    paper: bool
    fixed: dict[str, Any]
    cache: str
    max_quarantine: float = 0.05
    trunk_gb: float = 20.0
    wandb: Mode | None = None
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    concurrency: Annotated[int, Field(ge=1)] | None = None
    sampler: Sampler = "tpe"
    stopper: str = "asha"
    """One for all, each method's trials judged among themselves."""
    space: SearchSpace | None = None
    """In place of each method's own, of which every method gets the fields that it has."""
    fit: Fit | None = None
    """What was chosen for the clips, beneath all that is given."""

    def plans(self) -> dict[str, Plan]:
        """Of each method by the name of its run folder. Raises UserError for whatever would make a trial fail."""
        own = self.space.fixed | self.space.space if self.space else {}
        shared = read_space(FOLDER / "shared.yaml").space
        shared = {path: entry for path, entry in shared.items() if path not in self.fixed | own}
        plans = {}
        for method in self.methods:
            check_method(method)
        fields = {method: self._fixed_for(method) for method in self.methods}
        for path in self.fixed:
            if not any(path in fixed for fixed in fields.values()):
                raise UserError(f"--set {path}: none of {', '.join(self.methods)} has such a field")
        for path in own:
            if not any(path in self._fields_of(method) for method in self.methods):
                raise UserError(f"--space: {path}: none of {', '.join(self.methods)} has such a field")
        for method, given in fields.items():
            plan = make_plan(
                self.dataset,
                method,
                self._space_for(method),
                given,
                fit=self.fit and replace(self.fit, lines=()),  # said once, for all
                root=self.root,
                trials=self.trials,
                cache=self.cache,
                test_seeds=self.seeds,
                references=False,  # the other methods are
                max_quarantine=self.max_quarantine,
                trunk_gb=self.trunk_gb,
                own_trunk=True,  # or a method would have for nothing what others before it have trained
                trial_seconds=self.budget,
                concurrency=self.concurrency,
                sampler=self.sampler,
                stopper=self.stopper,
                wandb=self.wandb,
                reader=self.reader,
            )
            name = file_name(method)
            plans[name] = replace(plan, space=plan.space | shared)
            if self.paper:
                plans[name + PAPER] = replace(plans[name], fixed=plan.fixed | {"protocol": "paper"}, test_seeds=0)
        configs = {name: plan.check() for name, plan in plans.items()}
        must_agree: dict[str, dict[str, Any]] = {
            "epochs": {name: config.epochs for name, config in configs.items()},
            "prepare.*": {name: config.prepare for name, config in configs.items()},
        }
        for what, values in must_agree.items():
            first = next(iter(values))
            for name, value in values.items():
                if value != values[first]:
                    raise UserError(f"{what} differ between {first} and {name}; fix them for all with --set")
        return plans

    def _fixed_for(self, method: str) -> dict[str, Any]:
        """What is fixed for all, of the fields that this method has."""
        known = self._fields_of(method)
        return {path: value for path, value in self.fixed.items() if path in known}

    def _space_for(self, method: str) -> SearchSpace | None:
        """What is searched for all, of the fields that this method has, and where the fields that decide it are."""
        if self.space is None:
            return None
        known = self._fields_of(method)
        fixed = {path: value for path, value in self.space.fixed.items() if path in known}
        space = {
            path: entry for path, entry in self.space.space.items() if {path, *entry.get("when", {})} <= known.keys()
        }
        return replace(self.space, fixed=fixed, space=space)

    def _fields_of(self, method: str) -> Mapping[str, Any]:
        return field_paths(load_space(self.dataset, method, None).fixed["method"])

    def budget_in_words(self) -> str:
        """For the table."""
        return budget_in_words(self.trials, self.budget)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Note what is compared, for --resume."""
    folder.mkdir(parents=True, exist_ok=True)
    content = asdict(comparison) | {"methods": list(comparison.methods)}
    write_text(folder / COMPARISON, yaml.safe_dump(content, sort_keys=False))


def read_comparison(folder: Path) -> Comparison:
    """The comparison of a folder. Raises UserError if there is none."""
    content = load_yaml(folder / COMPARISON)
    comparison = read_as(Comparison, content, folder / COMPARISON)
    fixed = flatten(comparison.fixed)
    for path in fixed:
        check_known(path, f"{folder / COMPARISON}: fixed", comparison.methods)
    space = comparison.space
    if space:
        source = f"{folder / COMPARISON}: space"
        read = parse_space(asdict(space), source, space.trials, *comparison.methods)
        space = SearchSpace(read.fixed, read.space, read.trials, space.meant_for)
    return replace(comparison, fixed=fixed, space=space)


def read_compared_space(file: Path, methods: Sequence[str]) -> SearchSpace:
    """A search space for several methods. Raises UserError naming file and field."""
    space = read_space(file, *methods)
    if "method" in space.fixed | space.space:
        raise UserError(f"{file}: method: a comparison's methods are named by --methods; leave it out")
    return space


def compare(
    comparison: Comparison,
    folder: Path,
    store: Path,
    report: Reporter,
    say: Callable[[str], None],
    quiet: bool = False,
) -> list[MethodResult]:
    """Search every method, or go on where it was left; after each, writes the tables with what is known.

    At the end each method's report gets the whole table, and so does W&B.

    `quiet` shows no progress of the trials. Raises KeyboardInterrupt when a search was interrupted.
    """
    from raygap.search.job import run_sweep
    from raygap.tracking.wandb.callback import sweep_log
    from raygap.training.trunk import FOLDER as WARMUPS

    results: dict[str, MethodResult] = {}
    before = {result.method: result for result in read_results(folder)}
    for name, plan in comparison.plans().items():
        run = folder / name
        if name in before and _ended(before[name], plan, run):
            results[name] = before[name]
            continue
        make_folder(run, new=False)
        write_plan(plan, run)
        say(f"{name}: {comparison.budget_in_words()}, {run}")
        for note in plan.notes:
            say(f"note: {note}")
        outcome = run_sweep(plan, run, store, plan.concurrency, None, report, quiet)
        if outcome.interrupted:
            raise KeyboardInterrupt
        shutil.rmtree(run / WARMUPS, ignore_errors=True)  # nobody else has a use for it
        method = name.removesuffix(PAPER)
        if name == method:
            results[method] = _result(method, outcome)
        else:
            results[method].paper = outcome.best.value if outcome.best else None
        write_tables(comparison, list(results.values()), folder)
    if not lacking("report", ""):
        from raygap.tracking.report.comparison import write_comparison_report
        from raygap.tracking.report.page import write_report

        writers = {folder / name: write_report for name in comparison.plans()}  # they show the table, whole only now
        for place, write in {**writers, folder: write_comparison_report}.items():
            try:
                write(place)
            except OSError as error:
                say(f"{place}: the report could not be written ({error.strerror})")
    with sweep_log(folder, comparison.dataset, comparison.wandb, None, None) as log:
        if log:
            log.comparison(list(results.values()), comparison.budget_in_words())
    return list(results.values())


def write_tables(comparison: Comparison, results: list[MethodResult], folder: Path) -> None:
    """comparison.md, .tex, .csv (a row a method) and .json, and seeds.csv (a row a method and seed)."""
    rows, facts = table(results), made_by()
    about = legend(comparison.budget_in_words(), comparison.seeds)
    about += " Numbers under the paper protocol were chosen on test and flatter." if comparison.paper else ""
    notes = "".join(f"* {result.method}: {note}\n" for result in results for note in result.notes)
    if 0 < len(shared := shared_seeds(results)) < comparison.seeds:
        notes += f"* Ranks are averaged over the {len(shared)} seeds that all methods have.\n"
    made = f"Made by {in_words(facts)}."
    parts = [
        f"{comparison_outcome.outcome(results)}\n",
        f"{about}\n",
        markdown(rows),
        *([notes] if notes else []),
        f"{made}\n",
    ]
    write_text(folder / "comparison.md", "\n".join(parts))
    write_text(folder / "comparison.tex", f"% {about}\n% {made}\n{latex(rows)}")
    for name, (header, lines) in {"comparison.csv": summary_rows(results), "seeds.csv": long_rows(results)}.items():
        write_csv(folder / name, *with_facts(header, lines, [facts] * len(lines)))
    write_text(folder / RESULTS, json.dumps([asdict(result) for result in results], indent=1))


def _ended(result: MethodResult, plan: Plan, run: Path) -> bool:
    """Whether an earlier call has done all that is planned for a method: its trials, and a result on each seed."""
    try:
        kept = read_plan(run)
    except UserError:  # none is there yet, or it is damaged and written anew
        return False
    done = result.cost.get("trials", 0) >= plan.trials and len(result.seeds) == plan.test_seeds
    return kept == plan and done and result.paper is None


def _result(method: str, outcome: "Outcome") -> MethodResult:
    result = MethodResult(method, cost=_cost(outcome.study), notes=outcome.failures())
    if outcome.best:
        result.validation = outcome.best.value
        result.seeds = outcome.test.rows if outcome.test else {}
        if outcome.config and outcome.best.user_attrs.get(PLAIN):
            result.notes.append(f"its best trial on validation is a plain one, {outcome.config.method} without it")
    else:
        result.notes.append("no trial was complete")
    return result


def _cost(study: "optuna.Study") -> dict[str, float]:
    from optuna.trial import TrialState

    from raygap.search.study import finished_trials

    trials = finished_trials(study)
    states = [trial.state for trial in trials]
    sums = {name: sum(t.user_attrs.get(name, 0) for t in trials) for name in ("epochs", "epochs_reused", "seconds")}
    return {
        "trials": len(trials),
        "stopped_early": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
        "epochs": sums["epochs"] - sums["epochs_reused"],
        "seconds": sums["seconds"],
    }
