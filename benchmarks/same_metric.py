"""Do raygap's batches train as good a network as files read the usual way? One configuration over seeds.

python benchmarks/same_metric.py --out /tmp/cost --results benchmarks/results/same_metric.md
python benchmarks/same_metric.py --out /tmp/cost --data digits --fsdd DIR --chosen 36

The clips, files and training of sweep_cost.py, whose trials all share one seed, and so one draw of crops: how a whole
sweep's accuracies differ there says little of the loaders. Here each seed trains the first of its configurations twice,
and the differences are paired by seed. A seed also gives the network its first weights and the epochs their order, so
that only the frames differ: their crops' places, and whether they went through JPEG and through bytes.

With --chosen it asks of sweep_cost.py's two sweeps with early stopping whether what they chose is as good: the
configuration of either, on fresh seeds, both trained by raygap.
"""

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal

import baseline_sweep
import torch
import typer
from pages import write_page
from sweep_cost import BASELINE, RAYGAP, make_data

from raygap.data.batches import batches
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.tracking.seed_results import Interval
from raygap.training import evaluation
from raygap.training.final import test
from raygap.training.run import train

SIDES = ("files, read the usual way", "raygap's batches")
CHOICES = ("the baseline's choice", "raygap's choice")
SWEEPS = (f"{BASELINE}, early stopping", f"{RAYGAP}, early stopping")
MEASURED = ("best_val_accuracy", "test_accuracy", "test_audio_accuracy", "test_visual_accuracy")


def train_one(fields: dict, store: str, files: str | None) -> dict[str, float]:
    """Metrics of a training on files or, if there are none, on the store; the test reads the store in both cases."""
    torch.manual_seed(fields["seed"])
    with tempfile.TemporaryDirectory() as folder:
        if files:
            multiprocessing.set_start_method("fork", force=True)  # as a DataLoader has it where nobody changed it
            baseline_sweep.read_files(Path(files))
        *_, last = train(from_mapping(fields), Store.open(Path(store)), Path(folder))
        evaluation.batches = batches
        return last | test(Path(folder), Store.open(Path(store)))


@user_errors()
def main(
    out: Annotated[Path, typer.Option(help="Folder for media, stores and files; sweep_cost.py's will do.")],
    data: Annotated[Literal["demo", "digits"], typer.Option(help="The clips.")] = "demo",
    fsdd: Annotated[Path | None, typer.Option(help="The Free Spoken Digit Dataset, for digits.")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 10,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    chosen: Annotated[int, typer.Option(min=0, help="Compare the choices of sweeps of so many trials.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Train, and print a table."""
    shared = make_data(data, fsdd, chosen or 1, out)
    points, files, names = [shared.points[0]] * 2, [str(shared.files), None], SIDES
    if chosen:
        points, files, names = choices(out / f"{data}-{chosen}.json", shared.points), [None, None], CHOICES
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        runs = [
            [
                pool.submit(train_one, shared.space.fixed | point | {"seed": seed}, str(shared.store), read)
                for seed in range(first_seed, first_seed + seeds)
            ]
            for point, read in zip(points, files, strict=True)
        ]
        rows = [[run.result() for run in arm] for arm in runs]
    (out / f"same-{data}-{chosen}.json").write_text(json.dumps(rows))
    lines = [f"| | {names[0]} | {names[1]} | paired by seed |", "|---|---|---|---|"]
    for name in MEASURED:
        left, right = ([row[name] for row in arm] for arm in rows)
        change = Interval.of([b - a for a, b in zip(left, right, strict=True)])
        means = [f"{interval.mean:.4f} ± {interval.std:.4f}" for interval in map(Interval.of, (left, right))]
        lines.append(f"| {name} | {' | '.join(means)} | {change.mean:+.4f} ± {change.half_width:.4f} |")
    print("\n".join(lines))
    write_page(results, f"The same metric: {seeds} seeds on {data}", lines)


def choices(file: Path, points: list[dict]) -> list[dict]:
    """The configurations that the baseline's and raygap's sweep with early stopping have chosen."""
    if not file.exists():
        raise UserError(f"{file}: is not there; sweep_cost.py writes it")
    arms = json.loads(file.read_text())
    for name in SWEEPS:
        if name not in arms:
            raise UserError(f"{file}: lacks an arm; run sweep_cost.py with --arm '{name}'")
    best = [max(arms[name]["trials"], key=itemgetter("accuracy")) for name in SWEEPS]
    return [points[trial["number"]] for trial in best]


if __name__ == "__main__":
    typer.run(main)
