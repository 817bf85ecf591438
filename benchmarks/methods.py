"""All methods at equal budget, on separation.py's data sets: spoken and written digits with planted damage, drones, the
demo.

python benchmarks/methods.py --fsdd DIR
python benchmarks/methods.py --fsdd DIR --epochs 20
python benchmarks/methods.py --drones DIR --data drones
python benchmarks/methods.py --data demo --epochs 12

Every method gets the same number of trials from its own space and the shared fields, as launch/compare.py gives them:
defaults first, early stopping among its own trials, chosen on validation; then the same fresh seeds on test. The guided
methods' space is the demo's, whose stages are as long in proportion in any training. The history of gmm_scores is the
scores of the plain trials that its search begins with, which count among its trials; its test seeds share it. Where
such a plain trial wins, the best guided one is a row of its own.

Controls (posteriors shuffled within each class, or constant) have the best guided configuration of their method.
Corrections of the decision layer are fitted to the validation clips, after the training of each seed of the baselines.

With another --seed the searches draw other configurations: how much that moves a method's result, no interval of one
search says.

The same command goes on where it was stopped; with more --trials, --seeds or --methods it adds to what is there.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from pages import write_page
from separation import Data, open_data

from raygap.config import load_yaml
from raygap.data.fit import Fit
from raygap.data.predictions import Predictions
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.imbalance.correction import CORRECTIONS
from raygap.methods import METHODS
from raygap.plugins import file_name
from raygap.provenance import made_by
from raygap.schema import from_mapping, to_mapping
from raygap.search.comparison import Comparison, compare, write_comparison
from raygap.search.placement import place
from raygap.search.ray_start import start_ray
from raygap.search.seeds import train_seeds
from raygap.search.space import SEARCHABLE
from raygap.search.study import read_study
from raygap.search.trial import tested_by
from raygap.tracking.choice import rival_of
from raygap.tracking.comparison_outcome import outcome
from raygap.tracking.comparison_table import BASELINES, MethodResult, legend, long_rows, markdown, table
from raygap.tracking.run_folder import PLAIN, best_trial, fields_of, trial_folder, with_facts, write_csv
from raygap.tracking.worth import CHOSEN
from raygap.training.evaluation import macro_f1
from raygap.training.inference import store_predictions

SETS = {"digits": "light", "digits-heavy": "heavy", "digits-clean": "clean", "drones": "drones", "demo": "demo"}
"""Names here, and in separation.py."""
OF_THE_DATA = ("prepare.", "augment.", "model.", "optimizer.lr", "optimizer.schedule", "select_epoch")
"""Beginnings of the fields that separation.py fixes for a data set and all methods start from."""
FIRST = (*BASELINES, "gmm_scores", "gmm_adaptive")
"""What the table is about comes first, should it be stopped before its end."""
CONTROLS = ("shuffled", "constant")
RESULTS = Path(__file__).parent / "results"


@dataclass
class Row:
    """A row of the table, what made its result on each seed, and its configuration's own fields."""

    result: MethodResult
    made: dict[int, dict[str, str]]
    fields: dict[str, Any] = field(default_factory=dict)


def comparison_on(
    data: Data, methods: tuple[str, ...], trials: int, seeds: int, epochs: int, seed: int = 0
) -> Comparison:
    """What is compared: what suits the data lies beneath the methods' own spaces, as for clips of one's own."""
    fields = {path: value for path, value in data.fixed.items() if path.startswith(OF_THE_DATA)}
    fit = Fit(fields=fields, searched={}, also={}, trials=None, lines=(), gpu=False)
    return Comparison("demo", None, methods, trials, None, seeds, False, {"epochs": epochs, "seed": seed}, "", fit=fit)


def rows_of(result: MethodResult, run: Path, store: Store) -> Iterator[Row]:
    """The row of a method, and those of what is made of its chosen configuration."""
    study = read_study(run)
    best = best_trial(study) if study else None
    if study is None or best is None:
        yield Row(result, {})
        return
    tested = run / "seeds" / f"trial-{best.number:04d}"
    yield Row(result, {seed: tested_by(tested / str(seed)) for seed in result.seeds}, fields_of(best))
    if not result.seeds:
        return
    if result.method in BASELINES:
        yield from corrections(result, tested, store)
    if result.method in METHODS and METHODS[result.method].guided:
        plain = bool(best.user_attrs.get(PLAIN))
        guided = rival_of(study, best) if plain else best
        if guided is None:
            result.notes.append("no trial with its own loss came to its end")
            return
        config = to_mapping(from_mapping(load_yaml(trial_folder(run, guided.number) / "config.yaml")))
        variants = {"best guided trial": config} if plain else {}
        for control in CONTROLS:
            variants[control] = config | {"mixture": config["mixture"] | {"posterior": control}}
        folder = run / "controls" / f"trial-{guided.number:04d}"
        yield from tested_again(result.method, variants, sorted(result.seeds), folder, store)


def tested_again(
    method: str, variants: dict[str, dict[str, Any]], seeds: list[int], folder: Path, store: Store
) -> Iterator[Row]:
    """Configurations by what they are of a method, on the test seeds; what is tested already is read."""
    configs = {name: from_mapping(fields) for name, fields in variants.items()}
    (first, chosen), *others = configs.items()
    start_ray(dashboard=False)
    found = train_seeds(
        chosen, store.path, folder, seeds, place(chosen), lambda seed, metrics: None, references=dict(others)
    )
    for name in configs:
        one, place_of = found[CHOSEN if name == first else name], folder / ("" if name == first else name)
        notes = [f"seed {seed} failed: {why}" for seed, why in one.failed.items()]
        made = {seed: tested_by(place_of / str(seed)) for seed in one.rows}
        yield Row(MethodResult(f"{method}, {name}", seeds=one.rows, notes=notes), made)


def corrections(result: MethodResult, tested: Path, store: Store) -> Iterator[Row]:
    """The trained network of each seed with a decision layer fitted to val; the modalities' own answers stay."""
    trained: dict[int, tuple[Predictions, Predictions]] = {}
    for seed in result.seeds:
        val, test = (store_predictions(tested / str(seed) / "best.pt", store, [split]) for split in ("val", "test"))
        trained[seed] = val, test
    for name, kind in CORRECTIONS.items():
        row = Row(MethodResult(f"{result.method} + {name}"), {})
        for seed, (val, test) in trained.items():
            guess = kind.fit(val.logits, val.labels).apply(test.logits).argmax(axis=1)
            fused = {"test_accuracy": float((guess == test.labels).mean())}
            fused["test_macro_f1"] = macro_f1(test.labels, guess)
            row.result.seeds[seed] = result.seeds[seed] | fused
            row.made[seed] = tested_by(tested / str(seed))
        yield row


def write_results(data: str, epochs: int, comparison: Comparison, rows: list[Row], page: Path) -> None:
    """The page, and beside it the csv: a row a method and seed."""
    results = [row.result for row in rows]
    methods = [result for result in results if result.method in comparison.methods]
    how = f"{legend(comparison.budget_in_words(), comparison.seeds)} That is over all rows of the table."
    notes = [f"* {result.method}: {note}" for result in results for note in result.notes]
    chosen = [
        f"* {row.result.method}: " + ", ".join(f"{path} {_short(value)}" for path, value in row.fields.items())
        for row in rows
        if row.fields
    ]
    lines = [f"{outcome(methods)}\n", f"{how}\n", markdown(table(results)), *notes, "\n## Chosen\n", *chosen]
    write_page(page, f"Methods: {data}, {epochs} epochs", lines)
    header, cells = long_rows(results)
    header = ["search_epochs" if name == "epochs" else name for name in header]
    made = [row.made.get(seed) or made_by() for row in rows for seed in (row.result.seeds or (-1,))]
    whole = [[data, epochs, *line] for line in cells]
    write_csv(page.with_suffix(".csv"), *with_facts(["data", "epochs", *header], whole, made))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@user_errors()
def main(
    fsdd: Annotated[Path | None, typer.Option(envvar="RAYGAP_FSDD", help="The Free Spoken Digit Dataset.")] = None,
    drones: Annotated[Path | None, typer.Option(envvar="RAYGAP_DRONES", help="Films and sounds of drones.")] = None,
    out: Annotated[Path, typer.Option(help="Output folder; data sets and lengths have their own in it.")] = Path(
        "runs/methods"
    ),
    data: Annotated[str, typer.Option(help=f"One of {', '.join(SETS)}.")] = "digits",
    epochs: Annotated[int, typer.Option(min=2, help="Of every training.")] = 60,
    methods: Annotated[str, typer.Option(help="By comma; all if empty.")] = "",
    trials: Annotated[int, typer.Option(min=1, help="Trials a method.")] = 30,
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds of the test.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the searches; those of the test follow it.")] = 0,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Where the page and, beside it, the csv go.", show_default="benchmarks/results, of some --out"
        ),
    ] = None,
) -> None:
    """Compare all methods on a data set."""
    started = time.monotonic()
    os.environ.setdefault("WANDB_MODE", "disabled")
    if data not in SETS:
        raise UserError(f"--data {data}: choose from {', '.join(SETS)}")
    out = out.resolve()  # trials have working folders of their own
    asked = tuple(dict.fromkeys(filter(None, map(str.strip, methods.split(",")))))
    there = open_data(SETS[data], out, fsdd, drones)
    folder = out / (f"{data}-{epochs}" + (f"-seed-{seed}" if seed else ""))
    wanted = asked or (*FIRST, *(name for name in SEARCHABLE if name not in FIRST))
    comparison = comparison_on(there, wanted, trials, seeds, epochs, seed)
    write_comparison(comparison, folder)
    results = compare(comparison, folder, there.store.path, lambda seed, metrics: None, _say, quiet=True)
    rows = [row for result in results for row in rows_of(result, folder / file_name(result.method), there.store)]
    page = page or (folder if asked else RESULTS) / f"{'searches' if seed else 'methods'}-{folder.name}.md"
    write_results(data, epochs, comparison, rows, page)
    print(page.read_text(encoding="utf-8"))
    print(f"{(time.monotonic() - started) / 60:.1f} min; {page}, and beside it the csv")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(typer.run(main))
