"""Whole learning curves of random configurations, for replay.py, which asks of them what early stopping would cost.

python benchmarks/curves.py --out /tmp/curves --fsdd DIR --drones DIR --results benchmarks/results/curves.parquet

A set is a data set and a method. Its configurations are drawn at random from the space below, trained to the end
without early stopping, with shared warm-ups, and validated and tested after every epoch. The test split is read here
only to be recorded: nothing is chosen on it. Every finished training is kept in the output folder: the same command
goes on where it was stopped, and one that asks for more trains only these. Each training is seeded alike.

The file has one row a training and lists by epoch: `seconds` of CPU time, and what `evaluate` gives for val and test.
`trunk` is the same for trainings that share a warm-up, `failed` says why one has no end, `config` holds the fields that
were drawn and `fixed` all others that are not as by default, as JSON.

DIGITS are those of digits_data.py, from the Free Spoken Digit Dataset; DRONES any folder with a manifest.csv.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from digits import FIXED as DIGITS
from digits import RECIPE
from digits_data import write_data

from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.errors import TrainingDiverged
from raygap.methods import find_method
from raygap.provenance import made_by
from raygap.rng import generator
from raygap.schema import from_mapping
from raygap.search.space import SearchSpace
from raygap.training import run
from raygap.training.evaluation import evaluate
from raygap.training.trainer import Metrics, Trainer
from raygap.training.trunk import SharedWarmups, warmup_key

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": DIGITS | {"select_epoch": "best"},
    "digits60": DIGITS | {"select_epoch": "best", "epochs": 60},
    "drones": {
        "epochs": 24,
        "prepare.frame_size": 32,
        "prepare.n_mels": 32,
        "prepare.hop_length": 1024,
        "model.width": 8,
        "optimizer.schedule": "cosine",
    },
    "demo": {"epochs": 12, "prepare.hop_length": 1024, "model.width": 8, "optimizer.schedule": "cosine"},
}
"""Small networks, one core. What a method fixes comes on top (space_of)."""
METHODS = ("gmm_scores", "unimodal_losses")
TRUNK_BYTES = 4e9


def space_of(data: str, method: str) -> SearchSpace:
    """The five dimensions of a guided method and its optimiser on a ladder, in proportion to the epochs as the data
    sets' own spaces have them; or the optimiser of a method without warm-up, and the weight of its losses.
    """
    epochs = SETTINGS[data]["epochs"]
    if method == "unimodal_losses":
        fixed = {"method": method, "warmup.epochs": 0, "purify.epochs": 0}
        space = {
            "optimizer.lr": {"loguniform": [0.0005, 0.2]},
            "optimizer.weight_decay": {"loguniform": [1e-5, 1e-2]},
            "loss.unimodal_weight": {"loguniform": [0.2, 5.0]},
        }
    else:
        fixed = {"method": method, "purify.epochs": max(epochs // 10, 2)}
        space = {
            "optimizer.lr": {"choice": [0.01, 0.02, 0.04, 0.08, 0.16]},
            "optimizer.weight_decay": {"choice": [1e-4, 1e-3]},
            "warmup.epochs": {"randint": [max(epochs // 10, 2), round(0.4 * epochs) + 1]},
            "mixture.refit_every": {"randint": [1, 6]},
            "loss.align_weight": {"loguniform": [0.05, 2.0]},
            "loss.fusion_weight": {"uniform": [0.5, 2.0]},
            "purify.threshold": {"uniform": [0.2, 0.9]},
        }
    return SearchSpace(SETTINGS[data] | fixed, space)


def drawn(space: SearchSpace, data: str, method: str, number: int) -> dict[str, Any]:
    """The configuration of this number; another set draws others."""
    draw = np.random.RandomState(int(generator(0, f"curves of {method} on {data}", number).integers(2**32)))
    values = {}
    for path, entry in space.space.items():
        [(name, arguments)] = entry.items()
        if name == "choice":
            values[path] = draw.choice(arguments).item()
        elif name == "randint":
            values[path] = int(draw.randint(*arguments))
        else:
            low, high = np.log10(arguments) if name == "loguniform" else arguments
            value = draw.uniform(low, high)
            values[path] = float(10**value if name == "loguniform" else value)
    return values


class Tested(Trainer):
    """Notes after each epoch what the test split says, and the CPU seconds of the epoch, also in the shared warm-up."""

    def train_epoch(self) -> Metrics:
        """As Trainer."""
        began = time.process_time()
        metrics = super().train_epoch()
        metrics["seconds"] = time.process_time() - began
        return metrics | evaluate(self.network, self.store, "test", self.config, self.device, type(self.method))


@dataclass(frozen=True)
class Set:
    """The trainings of a method on a data set."""

    data: str
    method: str
    store: Path
    out: Path

    def record(self, number: int) -> None:
        """Train a configuration to its end and keep its curves, unless they are there."""
        kept = self.out / f"{self.data}-{self.method}-{number:04d}.json"
        if kept.exists():
            return
        space, store = space_of(self.data, self.method), Store.open(self.store)
        params = drawn(space, self.data, self.method, number)
        config = from_mapping(space.fixed | params)
        folder = self.out / "running"
        shutil.rmtree(folder, ignore_errors=True)
        rows, failed = [], None
        try:
            rows.extend(run.train(config, store, folder, trunk=SharedWarmups(self.out / "trunk", TRUNK_BYTES)))
        except TrainingDiverged as error:
            rows, failed = run_so_far(folder), str(error)
        curves = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        kept_names = ("seconds", *(name for name in curves if name.startswith(("val_", "test_"))))
        row = {
            "data": self.data,
            "method": self.method,
            "number": number,
            "epochs": config.epochs,
            "warmup": config.warmup.epochs,
            "trunk": warmup_key(config, store.header["key"], find_method(config.method)),
            "failed": failed,
            "config": json.dumps(params),
            "fixed": json.dumps(space.fixed),
            "commit": made_by()["commit"],
        } | {name: curves[name] for name in kept_names if name in curves}
        partial = kept.with_suffix(".partial")
        partial.write_text(json.dumps(row))
        partial.replace(kept)


def run_so_far(folder: Path) -> list[Metrics]:
    """The epochs of a training that failed."""
    file = folder / "metrics.parquet"
    return pq.read_table(file).to_pylist() if file.exists() else []


def gather(out: Path, results: Path) -> None:
    """Write what the output folder holds to one file."""
    rows = [json.loads(file.read_text()) for file in sorted(out.glob("*-*-[0-9]*.json"))]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {}
    for name in names:
        values = [row.get(name) for row in rows]
        lists = any(isinstance(value, list) for value in values)
        columns[name] = pa.array(values, pa.list_(pa.float32())) if lists else pa.array(values)
    pq.write_table(pa.table(columns), results, compression="zstd", compression_level=19)


@user_errors()
def main(
    out: Annotated[Path, typer.Option(help="Folder for stores and what is finished.")],
    data: Annotated[list[str], typer.Option(help="digits, digits60, drones, demo; in this order.")] = ["digits"],  # noqa: B006
    method: Annotated[list[str], typer.Option(help="Methods; each on all data sets.")] = list(METHODS),  # noqa: B006
    configurations: Annotated[int, typer.Option(min=1, help="Configurations a set.")] = 100,
    fsdd: Annotated[Path | None, typer.Option(envvar="RAYGAP_FSDD", help="The Free Spoken Digit Dataset.")] = None,
    drones: Annotated[Path | None, typer.Option(envvar="RAYGAP_DRONES", help="Folder with manifest.csv.")] = None,
    results: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
) -> None:
    """Record curves, the sets in turn, so that all have the same number when this is stopped."""
    run.Trainer = Tested
    (out / "stores").mkdir(parents=True, exist_ok=True)
    for name in data:
        root = {"drones": drones, "demo": None}.get(name)
        if name.startswith("digits"):
            if not fsdd:
                raise typer.BadParameter("the digits need --fsdd or RAYGAP_FSDD")
            root = write_data(fsdd, out / "digits", RECIPE).parent
        clips = read_clips("demo" if name == "demo" else "manifest", root)
        store = prepare(clips, from_mapping(SETTINGS[name]).prepare, out / "stores", workers=1)
        for number in range(configurations):
            for each in method:
                Set(name, each, store, out).record(number)
            print(name, number, flush=True)
        if results:
            gather(out, results)


if __name__ == "__main__":
    typer.run(main)
