"""raygap.train: one configuration on several seeds."""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import InstanceOf

from raygap.api.arguments import (
    Count,
    Cpus,
    Fields,
    Gpus,
    Progress,
    Share,
    Val,
    checked,
    find_source,
    given_fields,
    present,
    reader_options,
)
from raygap.api.results import TestResults, Training
from raygap.commands.remarks import on_chance, on_silence, on_steps
from raygap.config import TrialConfig, flatten, load_yaml
from raygap.data.prepare import prepare
from raygap.data.prepared import default_cache
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.extras import lacking
from raygap.methods import find_method
from raygap.schema import from_mapping, to_mapping
from raygap.search.placement import place
from raygap.search.plan import make_folder, trial_fields
from raygap.search.ray_start import start_ray, use_cluster, which_ray
from raygap.search.seeds import train_seeds
from raygap.tracking.figures import draw_figures


@checked
def train(
    dataset: str,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    config: InstanceOf[TrialConfig] | Fields | Path | None = None,
    set: Fields | None = None,
    epochs: Count | None = None,
    seeds: Count = 1,
    concurrency: Count | None = None,
    workers_per_trial: Count | None = None,
    cpus_per_worker: Cpus | None = None,
    gpus_per_worker: Gpus | None = None,
    address: str | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    max_quarantine: Share = 0.05,
    progress: bool = False,
) -> Training:
    """Train one configuration on several seeds and read the test split.

    The arguments are the options of `raygap train`; `config` is a sweep's `best`, a mapping, or a file such as
    best.yaml. Seeds count up from the configuration's own. A call with the same `out` goes on where one was ended.
    Raises UserError for bad input, and if no seed ended; a seed that failed is named in the result.
    """
    shown = Progress(progress)
    given = given_fields(set)
    given |= present(epochs=epochs, **{"compute.workers": workers_per_trial})
    fields, notes = trial_fields(dataset, _fields(config), given)
    trial = from_mapping(fields, str(config) if isinstance(config, Path) else "config")
    find_method(trial.method).check(trial)
    use_cluster(address)
    place(trial, concurrency, cpus_per_worker, gpus_per_worker)  # raises if not one fits
    clip_list = read_clips(dataset, *find_source(dataset, root, reader_options(splits, val, keep_overlap), cache))
    folder = out or Path("runs") / f"{dataset}-train-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    make_folder(folder, new=True)
    with shown.preparing() as bar:
        stores = cache or default_cache()
        store = prepare(clip_list, trial.prepare, stores, max_quarantine=max_quarantine, progress=bar)
    opened = Store.open(store)
    notes += on_silence(opened, trial.prepare) + on_steps(opened, trial)
    shown.note(notes)
    shown.say(f"training {folder}, {which_ray()}")
    start_ray()
    placement = place(trial, concurrency, cpus_per_worker, gpus_per_worker)
    numbers = [trial.seed + i for i in range(seeds)]
    with shown.seeds(seeds, trial.epochs) as report:
        results = train_seeds(trial, store, folder, numbers, placement, report)
    if not results.rows:
        raise UserError(f"{folder}: no seed ended: {next(iter(results.failed.values()))}")
    first = folder / str(next(iter(results.rows)))
    if lack := lacking("report", "a figure"):
        notes.append(lack)
    else:
        draw_figures(first, trial.gap.score, trial.seed, folder / "figures")
    notes += on_chance("test accuracy", results.interval("test_accuracy").mean, opened, "test")
    return Training(folder, trial, TestResults.of(results), tuple(notes))


def _fields(config: TrialConfig | Fields | Path | None) -> dict[str, Any]:
    if isinstance(config, TrialConfig):
        config = to_mapping(config)
    return flatten(load_yaml(config) if isinstance(config, Path) else config or {})
