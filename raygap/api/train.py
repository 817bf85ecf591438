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
    Share,
    Val,
    checked,
    given_fields,
    progress_of,
)
from raygap.api.results import TestResults, Training
from raygap.config import TrialConfig, flatten, load_yaml
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.schema import to_mapping
from raygap.search.ray_start import use_cluster
from raygap.tasks.source import find_source, present, reader_options
from raygap.tasks.train import Machine, make_trial, run


@checked
def train(
    dataset: str,
    *,
    root: Path | None = None,
    splits: Path | None = None,
    val: Val | None = None,
    keep_overlap: bool = False,
    exclude: Path | None = None,
    config: InstanceOf[TrialConfig] | Fields | Path | None = None,
    preset: str | None = None,
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
    shown = progress_of(progress)
    given = given_fields(set)
    given |= present(epochs=epochs, **{"compute.workers": workers_per_trial})
    named = str(config) if isinstance(config, Path) else "config"
    source = find_source(dataset, root, reader_options(splits, val, keep_overlap, exclude), cache, shown.say)
    use_cluster(address)
    fields = None if config is None else _fields(config)
    trial, notes = make_trial(dataset, fields, preset, given, named, source, cache)
    shown.note(notes)
    folder = out or Path("runs") / f"{file_name(dataset)}-train-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    machine = Machine(concurrency, cpus_per_worker, gpus_per_worker)
    beside = config if isinstance(config, Path) else None
    done = run(trial, dataset, source, folder, seeds, machine, cache, max_quarantine, shown, beside)
    if not done.results.rows:
        raise UserError(f"{folder}: no seed ended: {next(iter(done.results.failed.values()))}")
    notes += [*done.notes, *([done.no_figures] if done.no_figures else []), *done.doubts]
    return Training(folder, trial, TestResults.of(done.results), tuple(notes))


def _fields(config: TrialConfig | Fields | Path) -> dict[str, Any]:
    if isinstance(config, TrialConfig):
        config = to_mapping(config)
    return flatten(load_yaml(config) if isinstance(config, Path) else config)
