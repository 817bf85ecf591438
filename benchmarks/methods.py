"""All methods on real spoken digits with real handwriting and planted damage (digits_data.py), at equal budget.

python benchmarks/methods.py --fsdd DIR --out runs/methods

Every method gets the same number of trials from its own space and the shared fields, by Optuna, chosen on validation;
then fresh seeds on test. The guided methods' space is the demo's, whose trainings are about as long; their controls
(posteriors shuffled within each class, or constant) use the configuration that was chosen for their method. Corrections
of the decision layer are fitted to the validation clips, after the training of each seed of the two baselines. The same
command goes on where it was stopped.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from digits import FIXED, RECIPE
from digits_data import write_data

from raygap.config import load_yaml
from raygap.data.predictions import Predictions
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.imbalance.correction import CORRECTIONS
from raygap.methods import METHODS
from raygap.schema import from_mapping, to_mapping
from raygap.search.comparison import Comparison, compare, write_comparison, write_tables
from raygap.search.placement import place
from raygap.search.seeds import train_seeds
from raygap.search.space import SEARCHABLE
from raygap.tracking.comparison_table import BASELINES, MethodResult
from raygap.tracking.run_folder import BEST
from raygap.tracking.worth import CHOSEN
from raygap.training.evaluation import macro_f1
from raygap.training.inference import store_predictions

CONTROLS = ("shuffled", "constant")
SEARCHED = ("optimizer.lr", "optimizer.weight_decay", "warmup.epochs")
"""Fields that digits.py holds fixed and that are left to the methods' spaces here."""


def controls(result: MethodResult, run: Path, store: Path) -> Iterator[MethodResult]:
    """The chosen configuration with posteriors that know nothing of the clip, on the same seeds."""
    config = to_mapping(from_mapping(load_yaml(run / BEST)))
    for control in CONTROLS:
        changed = from_mapping(config | {"mixture": config["mixture"] | {"posterior": control}})
        folder = run / "controls" / control
        seeds, placement = sorted(result.seeds), place(changed)
        tested = train_seeds(changed, store, folder, seeds, placement, lambda seed, metrics: None)[CHOSEN]
        notes = [f"seed {seed} failed: {why}" for seed, why in tested.failed.items()]
        yield MethodResult(f"{result.method}, {control}", seeds=tested.rows, notes=notes)


def corrections(result: MethodResult, run: Path, store: Store) -> Iterator[MethodResult]:
    """The trained network of each seed with a decision layer fitted to val; the modalities' own answers stay."""
    trained: dict[int, tuple[Predictions, Predictions]] = {}
    for seed in result.seeds:
        [best] = run.glob(f"seeds/*/{seed}/best.pt")
        trained[seed] = tuple(store_predictions(best, store, [split]) for split in ("val", "test"))
    for name, kind in CORRECTIONS.items():
        row = MethodResult(f"{result.method} + {name}")
        for seed, (val, test) in trained.items():
            guess = kind.fit(val.logits, val.labels).apply(test.logits).argmax(axis=1)
            fused = {"test_accuracy": float((guess == test.labels).mean())}
            fused["test_macro_f1"] = macro_f1(test.labels, guess)
            row.seeds[seed] = result.seeds[seed] | fused
        yield row


@user_errors()
def main(
    fsdd: Annotated[Path, typer.Option(envvar="RAYGAP_FSDD", help="Folder of the Free Spoken Digit Dataset.")],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/methods"),
    methods: Annotated[str, typer.Option(help="By comma.")] = ",".join(SEARCHABLE),
    trials: Annotated[int, typer.Option(min=1, help="Trials a method.")] = 10,
    seeds: Annotated[int, typer.Option(min=2, help="Fresh seeds of the test.")] = 5,
) -> None:
    """Compare all methods on the digits."""
    started = time.monotonic()
    os.environ.setdefault("WANDB_MODE", "disabled")
    out.mkdir(parents=True, exist_ok=True)
    manifest = write_data(fsdd, out / "data", RECIPE)
    fixed = {path: value for path, value in FIXED.items() if path not in SEARCHED}
    store = prepare(read_clips("manifest", manifest.parent), from_mapping(fixed).prepare, out / "stores")
    comparison = Comparison("demo", None, tuple(methods.split(",")), trials, None, seeds, False, fixed, "")
    write_comparison(comparison, out)
    results = compare(comparison, out, store, lambda seed, metrics: None, lambda line: print(line, flush=True))
    rows: list[MethodResult] = []
    for result in results:
        rows.append(result)
        if result.method in METHODS and METHODS[result.method].guided and result.seeds:
            rows += controls(result, out / result.method, store)
        if result.method in BASELINES:
            rows += corrections(result, out / result.method, Store.open(store))
    write_tables(comparison, rows, out)
    print((out / "comparison.md").read_text())
    print(f"{(time.monotonic() - started) / 60:.1f} min; tables in {out}")


if __name__ == "__main__":
    sys.exit(typer.run(main))
