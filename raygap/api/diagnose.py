"""raygap.diagnose: look into a trained model, ours or a foreign one's."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raygap.api.arguments import Share, Val, checked, progress_of
from raygap.data.clips import Split
from raygap.data.predictions import READOUTS, Values
from raygap.imbalance.gap import GapScore
from raygap.tasks.diagnose import find_data, run
from raygap.tasks.source import reader_options
from raygap.tracking.run_folder import SPOILED

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
    spoiled: Path | None
    """CSV of the clips that are probably spoiled, as `exclude` takes it; None where that cannot be told."""
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
    exclude: Path | None = None,
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
    shown = progress_of(progress)
    reader = reader_options(splits, val, keep_overlap, exclude)
    data = find_data(source, dataset, root, reader, cache, max_quarantine, shown.say)
    done = run(source, data, split=split, correct=correct, score=score, values=values, out=out, progress=shown)
    from raygap.tracking.diagnosis.page import BALANCED, PAGE
    from raygap.tracking.diagnosis.verdict import advice, verdict

    found = done.diagnosis
    return Diagnosed(
        accuracy={name: float(found.right[name].mean()) for name in READOUTS},
        verdict=tuple(sentence.text for sentence in verdict(found)),
        advice=tuple(advice(found)),
        numbers=found,
        page=done.folder / PAGE,
        balanced=done.folder / BALANCED,
        spoiled=done.folder / SPOILED if found.suspects else None,
        corrections=tuple(done.corrections),
    )
