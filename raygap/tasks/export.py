"""A trained network as one file for other programs, and the card that goes with it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from raygap.errors import UserError
from raygap.tasks.source import check_network, load_classifier, sweep_of
from raygap.tracking.run_folder import TRIALS_FOLDER, read_ensemble, write_text

if TYPE_CHECKING:
    from raygap.data.store import Store
    from raygap.tracking.seed_results import SeedResults
    from raygap.training.inference import Classifier

Format = Literal["torch", "onnx", "safetensors"]
SUFFIXES: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}


class Exported(NamedTuple):
    """What was written."""

    file: Path
    card: Path


def check_export(source: Path, to: Format, out: Path | None) -> Path:
    """The file to write. Raises UserError unless `source` is what predict takes and `out` ends as the format does."""
    check_network(source)
    file = out or (source if source.is_dir() else source.parent) / f"model{SUFFIXES[to]}"
    if file.suffix != SUFFIXES[to]:
        raise UserError(f"--out {file}: --to {to} writes {SUFFIXES[to]}; end it so")
    if not file.parent.is_dir():
        raise UserError(f"--out {file}: there is no folder {file.parent}; make it first")
    return file


def export(source: Path, to: Format, file: Path) -> Exported:
    """Write what `predict` answers by, from a best.pt or a sweep's run folder, and its card beside it.

    Raises UserError where the network cannot be written in that format, or the file not at all.
    """
    from raygap.training.checkpoint import export_tensors, load
    from raygap.training.program import write_program

    classifier, store = load_classifier(source), _store_of(source)
    try:
        if to == "safetensors":
            if classifier.members:
                folder = source / TRIALS_FOLDER
                raise UserError(f"{source}: answers by several networks; export each by its best.pt below {folder}")
            export_tensors(load(classifier.path), file)
        else:
            steps = None
            if classifier.config.prepare.input == "features":
                if store is None:
                    raise UserError(
                        f"{source}: of features only the store of its sweep says whether a clip is a vector or steps; "
                        "export from a sweep's run folder whose store is there, or --to safetensors"
                    )
                steps = {"visual": store.frames.ndim == 3, "audio": store.spectrograms.ndim == 3}
            write_program(classifier, to, file, steps)
        card = file.with_name(f"{file.name}.md")
        write_text(card, "\n".join(_card(source, classifier, store, to, file)))
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({error.strerror})") from None
    return Exported(file, card)


def _store_of(source: Path) -> "Store | None":
    """That of the sweep that a network lies in, if both are there."""
    from raygap.tracking.report.run import Absent, Run

    sweep = sweep_of(source)
    if sweep:
        with suppress(Absent, UserError, OSError, KeyError):
            return Run(sweep).store
    return None


def _card(source: Path, classifier: "Classifier", store: "Store | None", to: Format, file: Path) -> Iterator[str]:
    from raygap.provenance import in_words, made_by
    from raygap.schema import to_mapping
    from raygap.search.plan import read_plan
    from raygap.training.checkpoint import load

    config, sweep = classifier.config, sweep_of(source)
    dataset = read_plan(sweep).dataset if sweep else ""
    yield "---\nlicense: unknown  # to be filled in: by what the weights, and the data behind them, may be used\n---\n"
    yield f"# {config.method}" + (f" on {dataset}" if dataset else "") + "\n"
    yield (
        f"A classifier of clips by sound and picture, exported by `raygap export --to {to}` as `{file.name}`. It tells "
        f"{len(classifier.class_names)} classes apart: {', '.join(classifier.class_names)}.\n"
    )
    yield "## Data\n"
    yield f"* data set: {dataset or 'not noted; the training was no part of a sweep'}"
    if store:
        counts = ", ".join(f"{split} {len(store.rows(split))}" for split in ("train", "val", "test"))
        yield f"* clips: {counts}"
    else:
        yield "* clips: not known here; the store that it was trained on is not at hand"
    yield "\n## Answer\n"
    if classifier.members:
        shares = ", ".join(f"{weight:.2f}" for weight in classifier.weights)
        yield f"* the mean of {len(classifier.members)} networks' probabilities, with weights {shares}"
    if classifier.correction and classifier.gain:
        gain = f"{100 * classifier.gain.mean:+.1f} ± {100 * classifier.gain.half_width:.1f}"
        yield f"* corrected by {classifier.correction.name}: {gain} points of accuracy on validation, cross-fitted"
    yield "* precision: " + ("as trained" if to == "safetensors" else "fp32, whatever the training's was")
    yield "\n## Numbers\n"
    yield from _numbers(source, classifier)
    of = " of its first network" if classifier.members else ""
    yield f"\n## Method and settings\n\n`{config.method}`; the whole configuration{of}:\n"
    yield f"```yaml\n{yaml.safe_dump(to_mapping(config), sort_keys=False)}```\n"
    yield "## Made by\n"
    trained = load(classifier.path).get("made_by")
    yield f"* trained: {in_words(trained) if trained else 'not noted'}"
    yield f"* exported: {in_words(made_by())}\n"


def _numbers(source: Path, classifier: "Classifier") -> Iterator[str]:
    """What is known of the network, and of its configuration over other seeds."""
    from raygap.tracking.report.run import best_checkpoint, results_in
    from raygap.tracking.worth import CHOSEN

    folder = (best_checkpoint(source) if source.is_dir() else classifier.path).resolve().parent
    kept: dict[str, Any] = read_ensemble(source) if source.is_dir() else {}
    if classifier.config.protocol == "paper":
        yield "PAPER PROTOCOL: trained on train and validation, chosen on TEST. The numbers flatter.\n"
    yield "| of | split | accuracy | macro-F1 |\n|---|---|---|---|"
    if kept.get("answer", "single") != "single":
        validation = kept["validation"][kept["answer"]]
        yield f"| what answers | val | {validation['val_accuracy']:.4f} | {validation['val_macro_f1']:.4f} |"
        if test := kept["test"].get(kept["answer"]):
            yield f"| what answers | test | {test['test_accuracy']:.4f} | {test['test_macro_f1']:.4f} |"
    elif row := _selected_epoch(folder / "metrics.parquet"):
        yield f"| this network, uncorrected | val | {row['val_accuracy']:.4f} | {row['val_macro_f1']:.4f} |"
    with suppress(OSError, ValueError, KeyError):
        test = json.loads((folder / "test.json").read_text(encoding="utf-8"))["metrics"]
        yield f"| this network, uncorrected | test | {test['test_accuracy']:.4f} | {test['test_macro_f1']:.4f} |"
    for place in (folder.parents[1] / "seeds" / f"trial-{folder.name}", folder.parent):
        results: SeedResults | None = results_in(place).get(CHOSEN)
        if results and results.rows:
            cells = [results.interval(f"test_{name}") for name in ("accuracy", "macro_f1")]
            several = len(results.rows) > 1
            shown = [f"{one.mean:.4f}" + (f" ± {one.half_width:.4f}" if several else "") for one in cells]
            of = f"the configuration, {len(results.rows)} seeds, ± 95 %" if several else "the configuration, one seed"
            yield f"| {of} | test | {' | '.join(shown)} |"
            break


def _selected_epoch(file: Path) -> dict[str, Any]:
    """Of a training's metrics.parquet; empty if it is not there."""
    import pyarrow.parquet as pq

    with suppress(OSError, ValueError, KeyError):
        rows = pq.read_table(file).to_pylist()
        return next(row for row in rows if row["epoch"] == rows[-1]["best_epoch"])
    return {}
