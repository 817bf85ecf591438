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
    KeepOverlap,
    MaxQuarantine,
    Root,
    Splits,
    Val,
    check_network,
    find_source,
    preparation_bar,
    reader_options,
)
from raygap.data.clips import ReaderOptions
from raygap.data.prepared import default_cache
from raygap.data.readers import READERS, check_source, read_clips
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.extras import need
from raygap.imbalance import GapScore
from raygap.search.plan import read_plan
from raygap.tracking.run_folder import PLAN

if TYPE_CHECKING:
    from raygap.data.predictions import Predictions
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
    cache: Cache = None,
    max_quarantine: MaxQuarantine = 0.05,
) -> None:
    """Look into a trained model: gap, contributions, decision layer, calibration, and what to try."""
    console = Console()
    need("report", "diagnose")
    trained = source.is_dir() or source.suffix == ".pt"
    if not trained and not source.is_file():
        raise UserError(f"{source}: no such file")
    if trained:
        check_network(source)
        found = _data_set(source, dataset, root, reader_options(splits, val, keep_overlap), cache, max_quarantine)
        name, where, reader, stores, share = found
        check_source(name, where, reader)
    from raygap.data.predictions import read_predictions
    from raygap.data.prepare import prepare
    from raygap.data.store import Store
    from raygap.tracking.diagnosis import diagnose, write_diagnosis
    from raygap.tracking.diagnosis.page import BALANCED, PAGE
    from raygap.tracking.report.run import best_checkpoint
    from raygap.training.inference import fingerprint, store_predictions, trained_config

    store, method, metrics, seed, network = None, "", None, 0, None
    if trained:
        best = best_checkpoint(source) if source.is_dir() else source
        config = trained_config(best)
        if correct and config.protocol == "paper":
            raise UserError(f"{best}: --correct needs clips held out of training; protocol paper trained on val too")
        with preparation_bar(console) as progress:
            path = prepare(
                read_clips(name, where, reader), config.prepare, stores, max_quarantine=share, progress=progress
            )
        store = Store.open(path)
        split = split or "val"
        predictions = store_predictions(best, store, list(dict.fromkeys(("train", "val", split))))
        method, metrics, seed, score = (
            config.method,
            best.parent / "metrics.parquet",
            config.seed,
            score or config.gap.score,
        )
        folder, network = out or best.parent / "diagnosis", fingerprint(best)
    else:
        predictions = read_predictions(source, values)
        split = split or ("val" if predictions.splits is not None else None)
        folder = out or source.with_name(f"{source.stem}-diagnosis")
    with console.status("diagnosing"):
        diagnosis = diagnose(
            predictions,
            source=str(source),
            score=score or "absolute",
            split=split,
            correct=correct,
            seed=seed,
            method=method,
            metrics=metrics,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_diagnosis(diagnosis, folder, store)
            saved = _save_corrections(diagnosis, predictions, folder, network)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    _print(console, diagnosis)
    print(f"page: {folder / PAGE}\nbalanced subset: {folder / BALANCED}")
    for file in saved:
        print(f"correction: {file}")


def _data_set(
    source: Path,
    dataset: str | None,
    root: Path | None,
    reader: ReaderOptions,
    cache: Path | None,
    max_quarantine: float,
) -> tuple[str, Path | None, ReaderOptions, Path, float]:
    """As given, or as the plan of the sweep says that the network lies in."""
    if dataset:
        return dataset, *find_source(dataset, root, reader, cache), cache or default_cache(), max_quarantine
    for folder in (source.resolve(), *source.resolve().parents[:4]):
        if (folder / PLAN).exists():
            plan = read_plan(folder)
            where = root or (Path(plan.root) if plan.root else None)
            return plan.dataset, where, plan.reader, cache or Path(plan.cache), plan.max_quarantine
    raise UserError(f"{source}: lies in no sweep that would name its data; give --dataset and --root")


def _save_corrections(
    diagnosis: "Diagnosis", predictions: "Predictions", folder: Path, network: str | None
) -> list[Path]:
    from raygap.training.inference import write_correction

    saved = []
    for found in diagnosis.corrections:
        path = folder / f"correction-{found.correction.name}.json"
        about = f"{diagnosis.source}, fitted to {diagnosis.fitted_on}"
        write_correction(found.correction, predictions.class_names, about, path, network)
        saved.append(path)
    return saved


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
