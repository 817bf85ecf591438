"""All methods on real spoken digits with real handwriting and planted damage (digits_data.py), at equal budget.

python benchmarks/methods.py --fsdd DIR --out runs/methods

Every method gets the same number of trials from its own space and the shared fields, by Optuna, chosen on validation;
then fresh seeds on test. The guided methods' space is the demo's, whose trainings are about as long; their controls
(posteriors shuffled within each class, or constant) use the configuration that was chosen for their method. The same
command goes on where it was stopped.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from digits import FIXED, RECIPE
from digits_data import write_data

from raygap.cli import user_errors
from raygap.config import from_mapping, load_yaml, to_mapping
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.methods import METHODS
from raygap.search.cluster import place
from raygap.search.comparison import Comparison, compare, write_comparison, write_tables
from raygap.search.seeds import train_seeds
from raygap.tracking.comparison_table import MethodResult
from raygap.tracking.run_folder import BEST

CONTROLS = ("shuffled", "constant")
SEARCHED = ("optimizer.lr", "optimizer.weight_decay", "warmup.epochs")
"""Fields that digits.py holds fixed and that are left to the methods' spaces here."""


@user_errors()
def main(
    fsdd: Annotated[Path, typer.Option(envvar="RAYGAP_FSDD", help="Folder of the Free Spoken Digit Dataset.")],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/methods"),
    methods: Annotated[str, typer.Option(help="By comma.")] = ",".join(METHODS),
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
    results = compare(comparison, out, store, None, lambda seed, metrics: None, lambda line: print(line, flush=True))
    rows: list[MethodResult] = []
    for result in results:
        rows.append(result)
        if METHODS[result.method].guided and result.seeds:
            config = to_mapping(from_mapping(load_yaml(out / result.method / BEST)))
            for control in CONTROLS:
                changed = from_mapping(config | {"mixture": config["mixture"] | {"posterior": control}})
                folder = out / result.method / "controls" / control
                numbers = sorted(result.seeds)
                tested = train_seeds(changed, store, folder, numbers, place(changed), lambda seed, metrics: None)
                rows.append(MethodResult(f"{result.method}, {control}", seeds=tested.rows))
    write_tables(comparison, rows, out)
    print((out / "comparison.md").read_text())
    print(f"{(time.monotonic() - started) / 60:.1f} min; tables in {out}")


if __name__ == "__main__":
    sys.exit(typer.run(main))
