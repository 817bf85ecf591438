"""Class probabilities of clips by a trained network, fused and by modality; labels are not needed.

python launch/predict.py --checkpoint runs/demo-train-20260101-120000/0/best.pt holiday.mp4 speech.wav
python launch/predict.py --checkpoint best.pt clips.csv --out answers.parquet --correction correction-learned_gate.json

A .csv lists clips: columns video and/or audio (paths relative to it), and optionally start, end (seconds) and id. Where
one modality is missing or cannot be decoded the other one's read-out answers, and the column `used` says so. A clip
without either has its reason in its row.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from raygap.commands.options import MACHINE
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.tasks.progress import Progress
from raygap.tasks.source import check_network, load_classifier


@user_errors()
def main(
    media: Annotated[list[Path], typer.Argument(help="Video and sound files, and .csv files that list clips.")],
    checkpoint: Annotated[
        Path, typer.Option(help="best.pt of a training, or a sweep's run folder.", rich_help_panel="Prediction")
    ],
    correction: Annotated[
        Path | None,
        typer.Option(
            help="A correction of the decision layer, by diagnose --correct.",
            show_default="the checkpoint's own, if it helped on validation",
            rich_help_panel="Prediction",
        ),
    ] = None,
    uncorrected: Annotated[
        bool,
        typer.Option(
            "--uncorrected",
            help="Without the correction that the checkpoint keeps, if it helped on validation.",
            rich_help_panel="Prediction",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .csv or .parquet file.", show_default="CSV on standard output", rich_help_panel="Prediction"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that decode.", show_default="one a core", rich_help_panel=MACHINE),
    ] = None,
) -> None:
    """Class probabilities of clips by a trained network, fused and by modality."""
    if out and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"--out {out}: unknown kind of file; end it in .csv or .parquet")
    check_network(checkpoint)
    if correction and not correction.exists():
        raise UserError(f"{correction}: no such file")
    if correction and uncorrected:
        raise UserError("--correction and --uncorrected contradict each other; leave one out")
    from joblib import cpu_count

    from raygap.data.tables import table_writer
    from raygap.training.inference import (
        answer_columns,
        answer_row,
        answers,
        choose_correction,
        combined_in_words,
        read_media,
    )

    classifier = load_classifier(checkpoint)
    corrected, notes = choose_correction(classifier, correction, uncorrected)
    for note in (*combined_in_words(classifier), *notes):
        print(note, file=sys.stderr)
    clips = read_media(media, classifier)
    columns = answer_columns(classifier.class_names)
    unusable = 0
    with Progress(Console(stderr=True)).preparing() as progress, table_writer(out, columns) as write:
        for answer in answers(
            classifier,
            clips,
            workers=workers or cpu_count(),
            correction=corrected,
            progress=progress if out else None,
        ):
            write(answer_row(answer, classifier.class_names))
            unusable += answer.used == "none"
    if unusable:
        print(f"{unusable} of {len(clips)} clips could not be used; their rows say why", file=sys.stderr)
    sys.exit(1 if unusable == len(clips) else 0)
