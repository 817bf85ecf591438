"""A look into a trained model, ours or a foreign one's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from raygap.data.clips import ReaderOptions, Split
from raygap.data.prepared import default_cache
from raygap.data.readers import check_source, read_clips
from raygap.errors import UserError
from raygap.extras import need
from raygap.search.plan import read_plan
from raygap.tasks.progress import Progress
from raygap.tasks.source import check_network, find_source, sweep_of

if TYPE_CHECKING:
    from raygap.data.predictions import Values
    from raygap.imbalance import GapScore
    from raygap.tracking.diagnosis import Diagnosis


NETWORKS = (".pt", ".safetensors")
"""Ends of files of networks; others hold predictions."""


class Data(NamedTuple):
    """What a network of raygap's is asked about."""

    dataset: str
    root: Path | None
    reader: ReaderOptions
    cache: Path
    max_quarantine: float


def find_data(
    source: Path,
    dataset: str | None,
    root: Path | None,
    reader: ReaderOptions,
    cache: Path | None,
    max_quarantine: float,
    say: Callable[[str], None] = print,
) -> Data | None:
    """Of a network, as given, or as the plan of the sweep says that it lies in; None for a file of predictions.

    What `reader` excludes is left out of either.

    Raises UserError if there is no such source, and if neither names its data, or they are not there.
    """
    need("report", "diagnose")
    if not source.is_dir() and source.suffix not in NETWORKS:
        if not source.is_file():
            raise UserError(f"{source}: no such file")
        if reader.exclude:
            raise UserError("--exclude: is for a network's data; leave the clips out of the file of predictions")
        return None
    check_network(source)
    if dataset:
        place = find_source(dataset, root, reader, cache, say)
        data = Data(dataset, *place, cache or default_cache(), max_quarantine)
    else:
        data = _of_its_sweep(source, root, cache)
        data = data._replace(reader=replace(data.reader, exclude=reader.exclude or data.reader.exclude))
    check_source(data.dataset, data.root, data.reader)
    return data


def _of_its_sweep(source: Path, root: Path | None, cache: Path | None) -> Data:
    folder = sweep_of(source)
    if not folder:
        raise UserError(f"{source}: lies in no sweep that would name its data; give --dataset and --root")
    plan = read_plan(folder)
    where = root or (Path(plan.root) if plan.root else None)
    return Data(plan.dataset, where, plan.reader, cache or Path(plan.cache), plan.max_quarantine)


class Diagnosed(NamedTuple):
    """What was found, the folder that tells it, and the corrections in it."""

    diagnosis: "Diagnosis"
    folder: Path
    corrections: list[Path]


def run(
    source: Path,
    data: Data | None,
    *,
    split: Split | None,
    correct: bool,
    score: "GapScore | None",
    values: "Values | None",
    out: Path | None,
    progress: Progress,
) -> Diagnosed:
    """Diagnose a network on its data, or what a file says of clips, and write the page."""
    from raygap.data.predictions import read_predictions
    from raygap.data.prepare import prepare
    from raygap.data.store import Store
    from raygap.tracking.diagnosis import diagnose, write_diagnosis
    from raygap.tracking.report.run import best_checkpoint, scored
    from raygap.training.inference import fingerprint, store_predictions, trained_config, write_correction

    store, method, metrics, seed, network, trainings = None, "", None, 0, None, []
    if data:
        best = best_checkpoint(source) if source.is_dir() else source
        config = trained_config(best)
        if correct and config.protocol == "paper":
            raise UserError(f"{best}: --correct needs clips held out of training; protocol paper trained on val too")
        clips, quarantine = read_clips(data.dataset, data.root, data.reader), data.max_quarantine
        with progress.preparing() as bar:
            path = prepare(clips, config.prepare, data.cache, max_quarantine=quarantine, progress=bar)
        store = Store.open(path)
        split = split or "val"
        predictions = store_predictions(best, store, list(dict.fromkeys(("train", "val", split))))
        method, metrics, seed = config.method, best.parent / "metrics.parquet", config.seed
        score, network, trainings = score or config.gap.score, fingerprint(best), scored(source)
        folder = out or best.parent / "diagnosis"
    else:
        predictions = read_predictions(source, values)
        split = split or ("val" if predictions.splits is not None else None)
        folder = out or source.with_name(f"{source.stem}-diagnosis")
    with progress.console.status("diagnosing"):
        found = diagnose(
            predictions,
            source=str(source),
            score=score or "absolute",
            split=split,
            correct=correct,
            seed=seed,
            method=method,
            metrics=metrics,
            trainings=trainings,
        )
        saved = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_diagnosis(found, folder, store)
            for one in found.corrections:
                file = folder / f"correction-{one.correction.name}.json"
                about = f"{found.source}, fitted to {found.fitted_on}"
                write_correction(one.correction, predictions.class_names, about, file, network)
                saved.append(file)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    return Diagnosed(found, folder, saved)
