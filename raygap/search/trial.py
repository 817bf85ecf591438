"""Where trials train: in a Tune actor, which serves one after another, or in the workers of a Ray TorchTrainer."""

import fcntl
import json
import math
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from ray import tune

from raygap.config import TrialConfig
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.errors import TrainingDiverged, TrialFailed, UserError
from raygap.patience import patiently
from raygap.provenance import made_by
from raygap.schema import from_mapping, to_mapping
from raygap.search.gpus import memory_taken
from raygap.search.lent_keys import borrow_keys
from raygap.search.study import EPOCHS_IN_ALL, METRIC, SEED_VALUES, TRIAL_NUMBER, suggested_config
from raygap.search.training import Training
from raygap.storage import Copies, Storage
from raygap.tracking.objectives import judged, parse_metric
from raygap.tracking.run_folder import trial_folder, write_text
from raygap.tracking.spoiled import ANSWERS
from raygap.tracking.whereabouts import teller
from raygap.training.final import test, write_answers
from raygap.training.run import train
from raygap.training.trainer import Metrics
from raygap.training.trunk import SharedWarmups
from raygap.workers import Workers

OWN_FAULT = (TrainingDiverged, UserError, torch.cuda.OutOfMemoryError)
"""What a trial does to itself, and would do again. Anything else may be the machine's fault: it is started again."""

OF_ALL = ("epochs_reused", "scoring_epochs")
"""What is counted over all seeds of a trial."""
TESTED = "test.json"
"""The metrics of a training that was tested, in its folder, what it was, and what made it."""


def reason_of(error: Exception) -> str:
    """One line on an error of OWN_FAULT."""
    reason = str(error).splitlines()[0]
    return f"out of GPU memory: {reason}" if isinstance(error, torch.cuda.OutOfMemoryError) else reason


def train_trial(
    config: TrialConfig,
    store: Store,
    folder: Path,
    trunk: SharedWarmups | None,
    storage: Storage | None = None,
    metric: str = "accuracy",
) -> Generator[Metrics, None, None]:
    """Train a trial of a sweep, or go on with it: metrics of each epoch, and what it is judged on.

    Where several workers train, all run this.
    """
    tell = teller(folder)
    with _at_work(folder, storage) as folder:
        if Workers().first:
            _note_config(folder, config, storage)
        yield from judged(train(config, store, folder, trunk=trunk, storage=storage, tell=tell), parse_metric(metric))


def train_trial_seeds(
    config: TrialConfig,
    store: Store,
    folder: Path,
    trunk: SharedWarmups | None,
    copies: Copies | None = None,
    metric: str = "accuracy",
    seeds: int = 1,
) -> Generator[Metrics, None, None]:
    """As train_trial, of one seed after the other: metrics of each epoch of the first, then of each other.

    Those of the others tell the trial's last epoch, in which it stays as far as a search is concerned; SEED_VALUES are
    what the seeds that have ended reached, EPOCHS_IN_ALL and the counts of OF_ALL those of all.
    """
    values: list[float] = []
    before = dict.fromkeys(("epoch", *OF_ALL), 0)
    for number in range(seeds):
        seeded = from_mapping(to_mapping(config) | {"seed": config.seed + number})
        place = f"seed-{number}" if number else ""
        storage = copies.at(place).folder if copies and place else copies.folder if copies else None
        row: Metrics = {}
        for row in train_trial(seeded, store, folder / place, trunk, storage, metric):
            if row["epoch"] == config.epochs:
                values.append(row[METRIC])
            if seeds == 1:
                yield row
                continue
            counts = {name: before[name] + row[name] for name in OF_ALL if name in row}
            last = {"epoch": config.epochs} if number else {}
            in_all = {EPOCHS_IN_ALL: before["epoch"] + row["epoch"], SEED_VALUES: tuple(values)}
            yield row | counts | last | in_all
        before = {name: count + row.get(name, 0) for name, count in before.items()}


def train_seed(
    config: TrialConfig, store: Store, folder: Path, storage: Storage | None = None, trunk: SharedWarmups | None = None
) -> Iterator[Metrics]:
    """Train a configuration to test it: metrics of each epoch, then those of the test split beside the last epoch's.

    A run that was tested before yields these alone. Where several workers train, all run this, and the first tests.
    """
    tell = teller(folder)
    with _at_work(folder, storage) as folder:
        workers = Workers()
        if earlier := workers.broadcast(tested_before(config, store, folder) if workers.first else None):
            yield earlier
            return
        if workers.first:
            _note_config(folder, config, storage)
        metrics: Metrics = {}
        for metrics in train(config, store, folder, trunk=trunk, storage=storage, tell=tell):
            yield metrics
        if workers.size > 1:
            dist.destroy_process_group()
        if workers.first:
            metrics |= test(folder, store)
            write_answers(folder, store, folder / ANSWERS)
            tested = {"of": _identity(config, store), "metrics": metrics, "made_by": made_by()}
            write_text(folder / TESTED, json.dumps(tested, indent=1))
            (folder / "checkpoint.pt").unlink()
            if storage:
                patiently(lambda: storage.push(folder, ["best.pt", ANSWERS, TESTED]))  # with its correction
                patiently(lambda: storage.delete(["checkpoint.pt"]))
        yield metrics


def tested_before(config: TrialConfig, store: Store, folder: Path) -> Metrics | None:
    """What train_seed gave last in this folder; None if it has not come to its end there, or was another's."""
    if not (folder / TESTED).exists():
        return None
    earlier = json.loads((folder / TESTED).read_text(encoding="utf-8"))
    return earlier["metrics"] if earlier["of"] == _identity(config, store) else None


def tested_by(folder: Path) -> dict[str, str]:
    """What made the metrics of the training that was tested in this folder; empty if it does not say."""
    with suppress(OSError, ValueError):
        return json.loads((folder / TESTED).read_text(encoding="utf-8")).get("made_by", {})
    return {}


def _identity(config: TrialConfig, store: Store) -> dict[str, Any]:
    return {"config": to_mapping(config), "store": store.header["key"]}


@contextmanager
def _at_work(folder: Path, storage: Storage | None) -> Iterator[Path]:
    """The folder to work in: the one given, or a copy on this machine of what `storage` holds."""
    if not storage or not Workers().first:
        yield folder
        return
    scratch = storage.scratch()
    lock = scratch.with_suffix(".lock")
    patiently(lambda: scratch.parent.mkdir(parents=True, exist_ok=True))
    _remove_leftovers(scratch.parent)
    with lock.open("w") as file:
        with suppress(OSError):  # one that was given up may still be at work here
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(scratch, ignore_errors=True)  # what counts is in the storage
        patiently(lambda: storage.pull_all(scratch))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Of processes that were killed, as those of stopped trials of several workers are; others hold their lock."""
    for lock in folder.glob("*.lock"):
        with suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def _note_config(folder: Path, config: TrialConfig, storage: Storage | None) -> None:
    def note() -> None:
        # Without its parents: a share that is away is waited for, not made anew.
        folder.parent.mkdir(exist_ok=True, parents=storage is not None)
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.yaml", yaml.safe_dump(to_mapping(config), sort_keys=False))
        if storage:
            storage.push(folder, ["config.yaml"])

    patiently(note)


def _for_tune(metrics: Metrics) -> Metrics:
    """TensorBoard would show the histogram of a list's numbers; the counts of a histogram, a tuple, it leaves out."""
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in metrics.items()}
    return told | memory_taken()


class SweepTrial(tune.Trainable):
    """Trains one epoch a step. A trial that fails by itself says so in its result; its actor takes the next."""

    def setup(
        self,
        config: dict[str, Any],
        store: Path,
        fixed: dict[str, Any],
        folder: Path,
        trunk: SharedWarmups | None,
        copies: Copies | None,
        metric: str,
        seeds: int = 1,
    ) -> None:
        """Once an actor: open the store. `fixed` lies under each trial's configuration."""
        if copies:
            borrow_keys()
        self.store = Store.open(local_store(store, copies.store if copies else None))
        self.fixed, self.folder, self.trunk, self.copies = fixed, folder, trunk, copies
        self.metric, self.seeds = metric, seeds
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Once a trial: start, or go on with, its training."""
        config = suggested_config(new_config, self.fixed)
        folder = trial_folder(self.folder, new_config[TRIAL_NUMBER])
        copies = self.copies.at(trial_folder(Path(), new_config[TRIAL_NUMBER]).as_posix()) if self.copies else None
        self.last, self.total_epochs = dict.fromkeys(("epoch", *OF_ALL), 0), config.epochs
        self.results = train_trial_seeds(config, self.store, folder, self.trunk, copies, self.metric, self.seeds)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch's metrics, or, after an error, a last result with the key `error`."""
        try:
            metrics = next(self.results)
        except OWN_FAULT as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                torch.cuda.empty_cache()
            return {"error": reason_of(error), **self.last, METRIC: math.nan, "done": True}
        self.last = {name: metrics.get(name, 0) for name in self.last}
        ended = metrics["epoch"] == self.total_epochs and len(metrics.get(SEED_VALUES, ())) in (0, self.seeds)
        return {**_for_tune(metrics), "done": ended}

    def cleanup(self) -> None:
        """Once an actor: leave nothing of its last trial on this machine."""
        self.results.close()


def train_in_worker(training: Training, report: Callable[[Metrics], None]) -> None:
    """Run a training, or a worker's part of it, and report each result. Raises TrialFailed for its own faults."""
    last = dict.fromkeys(("epoch", *OF_ALL), 0)
    try:
        if copies := training.copies:
            borrow_keys()
        store = Store.open(local_store(training.store, copies.store if copies else None))
        config, folder, trunk = training.config, training.folder, training.trunk
        if training.test:
            results = train_seed(config, store, folder, copies.folder if copies else None, trunk)
        else:
            results = train_trial_seeds(config, store, folder, trunk, copies, training.metric, training.seeds)
        for metrics in results:
            report(_for_tune(metrics))
            last = {name: metrics.get(name, 0) for name in last}
    except OWN_FAULT as error:
        raise TrialFailed(reason_of(error), last) from None
