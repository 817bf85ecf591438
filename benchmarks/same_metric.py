"""Do raygap's batches train as good a network as files read the usual way? One configuration over seeds.

python benchmarks/same_metric.py --out /tmp/cost --results benchmarks/results/same_metric.md

The clips, files and training of sweep_cost.py, whose trials all share one seed, and so one draw of crops: how a whole
sweep's accuracies differ there says little of the loaders. Here each seed trains the first of its configurations twice,
and the differences are paired by seed. A seed also gives the network its first weights and the epochs their order, so
that only the frames differ: their crops' places, and whether they went through JPEG and through bytes.
"""

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import baseline_sweep
import torch
import typer
from pages import write_page
from sweep_cost import make_data

from raygap.data.batches import batches
from raygap.data.store import Store
from raygap.ending import user_errors
from raygap.schema import from_mapping
from raygap.tracking.seed_results import Interval
from raygap.training import evaluation
from raygap.training.final import test
from raygap.training.run import train

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
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 2,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Train, and print a table."""
    shared = make_data(data, fsdd, 1, out)
    fields = shared.space.fixed | shared.points[0]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        runs = [
            [pool.submit(train_one, fields | {"seed": seed}, str(shared.store), files) for seed in range(seeds)]
            for files in (str(shared.files), None)
        ]
        rows = [[run.result() for run in arm] for arm in runs]
    (out / f"same-{data}.json").write_text(json.dumps(rows))
    lines = [
        "| | files, read the usual way | raygap's batches | raygap to files, paired by seed |",
        "|---|---|---|---|",
    ]
    for name in MEASURED:
        of_files, ours = ([row[name] for row in arm] for arm in rows)
        change = Interval.of([b - a for a, b in zip(of_files, ours, strict=True)])
        means = [f"{interval.mean:.4f} ± {interval.std:.4f}" for interval in map(Interval.of, (of_files, ours))]
        lines.append(f"| {name} | {' | '.join(means)} | {change.mean:+.4f} ± {change.half_width:.4f} |")
    print("\n".join(lines))
    write_page(results, f"The same metric: {seeds} seeds on {data}", lines)


if __name__ == "__main__":
    typer.run(main)
