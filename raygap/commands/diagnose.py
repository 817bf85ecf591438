"""Look into a trained model: its modality gap, what each modality contributes, who makes its answer, what to try.

python launch/diagnose.py runs/demo-gmm_scores-20260101-120000
python launch/diagnose.py runs/ave-train-20260101-120000/0/best.pt --dataset ave --root /data/AVE --correct
python launch/diagnose.py predictions.npz --out look

A model trained elsewhere comes as a file of what it says of clips (docs/diagnose.md has every detail):

.npz: arrays audio, visual (clips, classes) and labels (clips,), class indices from 0; optional fused, ids, splits,
class_names, features_audio, features_visual (clips, features), weight_audio, weight_visual (classes, features).

.parquet, .csv: columns label, audio_0 to audio_{C-1}, visual_0 to visual_{C-1}; optional fused_0 to fused_{C-1}, id,
split. In place of numbers, class names: audio_dog.

Each read-out holds logits, or probabilities whose rows sum to 1: which one was found is said.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from raygap.commands.options import (
    DATA,
    Cache,
    Exclude,
    KeepOverlap,
    MaxQuarantine,
    Root,
    Splits,
    Val,
)
from raygap.data.readers import READERS
from raygap.ending import user_errors
from raygap.imbalance import GapScore
from raygap.tasks.diagnose import find_data, run
from raygap.tasks.progress import Progress
from raygap.tasks.source import reader_options

if TYPE_CHECKING:
    from raygap.tracking.diagnosis import Diagnosis


@user_errors()
def main(
    source: Annotated[
        Path, typer.Argument(help="A sweep's run folder, a best.pt, or a .npz, .parquet or .csv of predictions.")
    ],
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(
            help="Clips that all but the gaps is about; test is read only when asked.",
            show_default="val",
            rich_help_panel="Diagnosis",
        ),
    ] = None,
    correct: Annotated[
        bool,
        typer.Option(
            "--correct",
            help="Fit corrections of the decision layer to val, cross-fitted; save them.",
            rich_help_panel="Diagnosis",
        ),
    ] = False,
    score: Annotated[
        GapScore | None,
        typer.Option(
            help="What the mixture is fitted to.",
            show_default="the training's, or absolute",
            rich_help_panel="Diagnosis",
        ),
    ] = None,
    values: Annotated[
        Literal["logits", "probabilities"] | None,
        typer.Option(
            help="What a file of predictions holds.", show_default="seen from the values", rich_help_panel="Diagnosis"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Its folder.", show_default="diagnosis beside the source", rich_help_panel="Diagnosis"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help=f"Data set of a best.pt: {', '.join(READERS)}.", show_default="that of its sweep", rich_help_panel=DATA
        ),
    ] = None,
    root: Root = None,
    splits: Splits = None,
    val: Val = None,
    keep_overlap: KeepOverlap = False,
    exclude: Exclude = None,
    cache: Cache = None,
    max_quarantine: MaxQuarantine = 0.05,
) -> None:
    """Look into a trained model: gap, contributions, decision layer, calibration, and what to try."""
    console = Console()
    options = reader_options(splits, val, keep_overlap, exclude)
    data = find_data(source, dataset, root, options, cache, max_quarantine)
    progress = Progress(console)
    found = run(source, data, split=split, correct=correct, score=score, values=values, out=out, progress=progress)
    from raygap.imbalance.spoiled import KINDS
    from raygap.tracking.diagnosis.page import BALANCED, PAGE
    from raygap.tracking.run_folder import SPOILED

    _print(console, found.diagnosis)
    print(f"page: {found.folder / PAGE}\nbalanced subset: {found.folder / BALANCED}")
    if suspects := found.diagnosis.suspects:
        counts = ", ".join(f"{len(suspects.found.listed(kind))} {kind}" for kind in KINDS)
        print(f"probably spoiled: {found.folder / SPOILED} ({counts})")
    for file in found.corrections:
        print(f"correction: {file}")


def _print(console: Console, diagnosis: "Diagnosis") -> None:
    from raygap.data.predictions import MODALITIES, READOUTS
    from raygap.tracking.diagnosis.findings import judged
    from raygap.tracking.diagnosis.verdict import advice, verdict

    shapley = diagnosis.shapley["read-outs"]
    table = Table("", *READOUTS, box=SIMPLE)
    table.add_row("accuracy", *(f"{diagnosis.right[name].mean():.3f}" for name in READOUTS))
    table.add_row("contributes (Shapley)", "", *(f"{getattr(shapley, name):+.3f}" for name in MODALITIES))
    if diagnosis.shares:
        shares = (f"{getattr(diagnosis.shares, name):.3f}" for name in MODALITIES)
        table.add_row("share of the fused logits", "", *shares)
    for row, field in (("mean confidence", "confidence"), ("calibration error (ECE)", "ece")):
        table.add_row(row, *(f"{getattr(diagnosis.calibration[name], field):.3f}" for name in READOUTS))
    console.print(table)
    if diagnosis.corrections:
        table = Table("correction", "accuracy gain", "drop of log loss", "ECE", title=judged(diagnosis), box=SIMPLE)
        for found in diagnosis.corrections:
            gain, drop = found.accuracy_gain, found.log_loss_drop
            table.add_row(
                found.correction.name,
                f"{gain.mean:+.3f} ± {gain.half_width:.3f}",
                f"{drop.mean:+.3f} ± {drop.half_width:.3f}",
                f"{found.result.ece:.3f}",
            )
        console.print(table)
    for sentence in verdict(diagnosis):
        print(f"* {sentence.text}")
    print("What to try:")
    for text in advice(diagnosis):
        print(f"* {text}")
    for note in diagnosis.notes:
        print(f"note: {note}")
