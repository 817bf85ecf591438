"""Does the loader starve the GPU? Training with raygap's batches beside training on one batch that stays where it is.

python benchmarks/feeding.py --out DIR --results benchmarks/results/feeding.md

ResNet-18 for each modality, three frames of 224 pixels and a 257 x 188 spectrogram a clip (OGM-GE's recipe), batch 64,
random crops and mirror images. Both arms are the trainer's own pass over the training clips, with all that it does
beside a step; the second gets its first batch again and again, already cropped and scaled. Passes of the two alternate.
The share is what the loader leaves of the speed that the network alone would have: 1 means that the GPU never waits.
Clips are random bytes, in the page cache. Without a GPU it runs on the CPU, where the loader takes the network's cores.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from pages import write_page

from raygap.config import RECIPES
from raygap.data.batches import Batch, batches
from raygap.data.clips import Clip, ClipList
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.store import Store, StoreWriter
from raygap.schema import from_mapping
from raygap.training import trainer
from raygap.training.trainer import Trainer

CLASSES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
TIMES = 5


def write_store(folder: Path, clips: int, fields: dict[str, Any]) -> Store:
    """Random clips, all for training."""
    settings = from_mapping(fields).prepare
    named = [Clip(f"clip{i}", Path(f"{i}.flv"), None, CLASSES[i % len(CLASSES)], "train") for i in range(clips)]
    folder.mkdir(parents=True)
    writer, draw = StoreWriter(folder, clips, settings), np.random.default_rng(0)
    for row in range(clips):
        frames = draw.integers(0, 256, frames_shape(settings), dtype=np.uint8)
        writer.write(row, frames, draw.standard_normal(spectrogram_shape(settings), np.float32).astype(np.float16))
    scale = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "frame_mean": [128.0] * 3, "frame_std": [74.0] * 3}
    writer.finish(ClipList("random", tuple(named), CLASSES, Path()), "random", scale, {})
    return Store.open(folder)


def constant(store: Store, rows: np.ndarray, *, batch_size: int, order: np.ndarray, **options: Any) -> Iterator[Batch]:
    """In place of batches(): the first batch, as often as there are batches."""
    first = next(batches(store, rows, batch_size=batch_size, order=order, **options))
    for _ in range(0, len(order), batch_size):
        yield first


def seconds(running: Trainer, loader: Any) -> float:
    """Of a pass over the training clips; it ends with a copy to the host, so the GPU has finished, too."""
    with mock.patch.object(trainer, "batches", loader):
        began = time.perf_counter()
        running._train_pass("warmup")
    return time.perf_counter() - began


def main(
    out: Annotated[Path, typer.Option(help="Folder for the store; it must not exist.")],
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    clips: Annotated[int, typer.Option(help="Clips a pass, in whole batches.")] = 1280,
    batch: Annotated[int, typer.Option(min=2, help="Clips a batch.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Measure and print a table."""
    recipe = {f"prepare.{name}": value for name, value in (RECIPES["ogm_ge"] | {"frames": 3}).items()}
    fields = recipe | {"model.encoder": "resnet18", "optimizer.batch_size": batch, "compute.threads": threads}
    store = write_store(out, clips // batch * batch, fields)
    lines = ["| precision | raygap's batches, clips/s | constant tensors, clips/s | share |", "|---|---|---|---|"]
    for precision in ("fp32", "bf16"):
        running = Trainer(from_mapping(fields | {"compute.precision": precision}), store)
        passes = [[seconds(running, loader) for loader in (batches, constant)] for _ in range(1 + TIMES)]
        speeds = [len(running.rows) / statistics.median(arm) for arm in zip(*passes[1:], strict=True)]
        lines.append(f"| {precision} | {speeds[0]:.1f} | {speeds[1]:.1f} | {speeds[0] / speeds[1]:.3f} |")
        print("\n".join(lines[-1:]), flush=True)
    command = f"python benchmarks/feeding.py --out DIR --clips {clips} --batch {batch} --threads {threads}"
    write_page(results, "Feeding the network", [f"`{command}`\n", *lines])


if __name__ == "__main__":
    typer.run(main)
