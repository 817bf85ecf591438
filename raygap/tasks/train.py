"""One configuration on several seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raygap.config import TrialConfig
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.errors import UserError
from raygap.extras import lacking
from raygap.schema import from_mapping
from raygap.search.plan import make_folder, trial_fields
from raygap.search.presets import find_preset
from raygap.search.ray_start import start_ray, which_ray
from raygap.tasks.progress import Progress
from raygap.tasks.source import Source, fit_of
from raygap.training.check import check_trial

if TYPE_CHECKING:
    from raygap.tracking.seed_results import SeedResults


class Machine(NamedTuple):
    """As `place` takes it."""

    concurrency: int | None
    cpus_per_worker: float | None
    gpus_per_worker: float | None


def make_trial(
    dataset: str,
    config: dict[str, Any] | None,
    preset: str | None,
    given: dict[str, Any],
    named: str,
    source: Source,
    cache: Path | None,
) -> tuple[TrialConfig, list[str]]:
    """The configuration, `given` over a file's or a preset's, and what its user may not expect of it (trial_fields).

    Raises UserError if it cannot train; `named` is what `config` is called.
    """
    if config is not None and preset:
        raise UserError("--config and --preset contradict each other; leave one out")
    published = find_preset(preset) if preset else None
    chosen = published.fields if published else config or {}
    fit = None if "schema_version" in chosen else fit_of(dataset, source, cache)  # a whole one stands alone
    fields, notes = trial_fields(dataset, chosen, given, fit)
    trial = from_mapping(fields, f"--preset {preset}" if preset else named)
    check_trial(trial)
    return trial, [*([f"{preset}: {published.source}"] if published else []), *notes]


class Trained(NamedTuple):
    """What came of it."""

    results: "SeedResults"
    notes: list[str]
    doubts: list[str]
    """To be said beside the results."""
    no_figures: str
    """What is missing that would have drawn them."""


def run(
    trial: TrialConfig,
    dataset: str,
    source: Source,
    folder: Path,
    seeds: int,
    machine: Machine,
    cache: Path | None,
    max_quarantine: float,
    progress: Progress,
    beside: Path | None = None,
) -> Trained:
    """Prepare the data, train on seeds counted up from the configuration's own, and draw the first one's figures.

    `beside` is the file of the configuration, near which the history lies that it may name.
    """
    from raygap.data.prepare import prepare
    from raygap.data.store import Store
    from raygap.search.cost import time_needed
    from raygap.search.placement import place
    from raygap.search.seeds import train_seeds
    from raygap.tasks.remarks import on_chance, on_silence, on_steps
    from raygap.tracking.figures import draw_figures
    from raygap.tracking.worth import CHOSEN
    from raygap.training.histories import bring_pool, scoring_trainings

    place(trial, *machine)  # raises if not one fits
    clips = read_clips(dataset, *source)
    make_folder(folder, new=True)
    with progress.preparing() as bar:
        stores = cache or default_cache()
        store = prepare(clips, trial.prepare, stores, max_quarantine=max_quarantine, progress=bar)
    opened = Store.open(store)
    check_trial(trial, opened)
    bring_pool(trial, opened, folder, beside)
    notes = on_silence(opened, trial.prepare) + on_steps(opened, trial)
    progress.note(notes)
    progress.say(f"training {folder}, {which_ray()}")
    at_once = min(place(trial, *machine).at_once, seeds)
    for line in time_needed(trial, opened, (seeds + scoring_trainings(trial)) * trial.epochs, at_once):
        progress.say(f"  {line}")
    start_ray(dashboard=trial.compute.workers > 1)
    numbers = [trial.seed + i for i in range(seeds)]
    with progress.seeds(seeds, trial.epochs) as report:
        results = train_seeds(trial, store, folder, numbers, place(trial, *machine), report)[CHOSEN]
    lack, doubts = lacking("report", "a figure"), []
    if results.rows:
        first = folder / str(next(iter(results.rows)))
        if not lack:
            draw_figures(first, trial.gap.score, trial.seed, folder / "figures")
        doubts = on_chance("test accuracy", results.interval("test_accuracy").mean, opened, "test")
    return Trained(results, notes, doubts, lack)
