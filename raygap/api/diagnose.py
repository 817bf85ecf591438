"""raygap.diagnose: look into a trained model, ours or a foreign one's."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raygap.api.arguments import Progress, Share, Val, checked, find_source, reader_options
from raygap.data.clips import ReaderOptions, Split
from raygap.data.predictions import READOUTS, Values, read_predictions
from raygap.data.prepare import prepare
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.extras import need
from raygap.imbalance.gap import GapScore
from raygap.search.plan import read_plan
from raygap.tracking.report.run import best_checkpoint
from raygap.tracking.run_folder import PLAN
from raygap.training.inference import fingerprint, store_predictions, trained_config, write_correction

if TYPE_CHECKING:  # its page draws with an extra
    from raygap.tracking.diagnosis import Diagnosis


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """What was found in a model."""

    accuracy: dict[str, float]
    """fused, audio, visual."""
    verdict: tuple[str, ...]
    """In sentences, most important first."""
    advice: tuple[str, ...]
    """What to try, most promising first."""
    numbers: "Diagnosis"
    """Everything else."""
    page: Path
    """diagnosis.html."""
    balanced: Path
    """CSV of the clips that are balanced."""
    corrections: tuple[Path, ...]
    """Those of the decision layer that were fitted, as predict takes them."""


@checked
def diagnose(
    source: Path,
    *,
    dataset: str | None = None,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    split: Split | None = None,
    correct: bool = False,
    score: GapScore | None = None,
    values: Values | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    max_quarantine: Share = 0.05,
    progress: bool = False,
) -> Diagnosed:
    """Gap, contributions, decision layer and calibration of a model, and what to try.

    The arguments are the options of `raygap diagnose`: `source` is a sweep's run folder, a best.pt, or a .npz, .parquet
    or .csv of what any network says of clips (docs/diagnose.md has the columns). Raises UserError for bad input.
    """
    need("report", "diagnose")
    from raygap.tracking.diagnosis import diagnose as find
    from raygap.tracking.diagnosis import write_diagnosis
    from raygap.tracking.diagnosis.page import BALANCED, PAGE
    from raygap.tracking.diagnosis.verdict import advice, verdict

    store, method, metrics, seed, network = None, "", None, 0, None
    if source.is_dir() or source.suffix == ".pt":
        best = best_checkpoint(source) if source.is_dir() else source
        config = trained_config(best)
        if correct and config.protocol == "paper":
            raise UserError(f"{best}: correct needs clips held out of training; protocol paper trained on val too")
        options = reader_options(splits, val, keep_overlap)
        name, where, reader, stores, share = _data_set(best, dataset, root, options, cache, max_quarantine)
        with Progress(progress).preparing() as bar:
            clip_list = read_clips(name, where, reader)
            store = Store.open(prepare(clip_list, config.prepare, stores, max_quarantine=share, progress=bar))
        split = split or "val"
        predictions = store_predictions(best, store, list(dict.fromkeys(("train", "val", split))))
        method, metrics, seed = config.method, best.parent / "metrics.parquet", config.seed
        score, network = score or config.gap.score, fingerprint(best)
        folder = out or best.parent / "diagnosis"
    else:
        predictions = read_predictions(source, values)
        split = split or ("val" if predictions.splits is not None else None)
        folder = out or source.with_name(f"{source.stem}-diagnosis")
    found = find(
        predictions,
        source=str(source),
        score=score or "absolute",
        split=split,
        correct=correct,
        seed=seed,
        method=method,
        metrics=metrics,
    )
    saved = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_diagnosis(found, folder, store)
        for one in found.corrections:
            path = folder / f"correction-{one.correction.name}.json"
            about = f"{found.source}, fitted to {found.fitted_on}"
            write_correction(one.correction, predictions.class_names, about, path, network)
            saved.append(path)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another out") from None
    return Diagnosed(
        accuracy={name: float(found.right[name].mean()) for name in READOUTS},
        verdict=tuple(sentence.text for sentence in verdict(found)),
        advice=tuple(advice(found)),
        numbers=found,
        page=folder / PAGE,
        balanced=folder / BALANCED,
        corrections=tuple(saved),
    )


def _data_set(
    best: Path, dataset: str | None, root: Path | None, reader: ReaderOptions, cache: Path | None, max_quarantine: float
) -> tuple[str, Path | None, ReaderOptions, Path, float]:
    """As given, or as the plan of the sweep says that the network lies in."""
    if dataset:
        return dataset, *find_source(dataset, root, reader, cache), cache or default_cache(), max_quarantine
    for folder in best.resolve().parents[:4]:
        if (folder / PLAN).exists():
            plan = read_plan(folder)
            where = root or (Path(plan.root) if plan.root else None)
            return plan.dataset, where, plan.reader, cache or Path(plan.cache), plan.max_quarantine
    raise UserError(f"{best}: lies in no sweep that would name its data; give dataset and root")
