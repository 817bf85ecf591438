"""Where trials train: in a Tune actor, which serves one after another, or in the workers of a Ray TorchTrainer."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
import yaml
from ray import tune

from raygap.config import TrialConfig, from_mapping, to_mapping
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.errors import TrainingDiverged, TrialFailed, UserError
from raygap.patience import patiently
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.tracking.run_folder import trial_folder, write_text
from raygap.training.run import test, train
from raygap.training.trainer import Metrics
from raygap.workers import Workers

OWN_FAULT = (TrainingDiverged, UserError, torch.cuda.OutOfMemoryError)
"""What a trial does to itself, and would do again. Anything else may be the machine's fault: it is started again."""


def reason_of(error: Exception) -> str:
    """One line on an error of OWN_FAULT."""
    reason = str(error).splitlines()[0]
    return f"out of GPU memory: {reason}" if isinstance(error, torch.cuda.OutOfMemoryError) else reason


def train_trial(config: TrialConfig, store: Store, folder: Path, trunk: tuple[str, float] | None) -> Iterator[Metrics]:
    """Train a trial of a sweep, or go on with it: metrics of each epoch. Where several workers train, all run this."""
    if Workers().first:
        _note_config(folder, config)
    yield from train(config, store, folder, trunk=trunk and (Path(trunk[0]), trunk[1]))


def train_seed(config: TrialConfig, store: Store, folder: Path) -> Iterator[Metrics]:
    """Train a configuration to test it: metrics of each epoch, then those of the test split beside the last epoch's.

    A run that was tested before yields these alone. Where several workers train, all run this, and the first tests.
    """
    workers, done = Workers(), folder / "test.json"
    identity = {"config": to_mapping(config), "store": store.header["key"]}
    earlier = json.loads(done.read_text()) if workers.first and done.exists() else {"of": None}
    if earlier := workers.broadcast(earlier["metrics"] if earlier["of"] == identity else None):
        yield earlier
        return
    if workers.first:
        _note_config(folder, config)
    metrics: Metrics = {}
    for metrics in train(config, store, folder):
        yield metrics
    if workers.size > 1:
        dist.destroy_process_group()
    if workers.first:
        metrics |= test(folder, store)
        write_text(done, json.dumps({"of": identity, "metrics": metrics}, indent=1))
        (folder / "checkpoint.pt").unlink()
    yield metrics


def _note_config(folder: Path, config: TrialConfig) -> None:
    def note() -> None:
        folder.parent.mkdir(exist_ok=True)  # without its parents: a share that is away is waited for, not made anew
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.yaml", yaml.safe_dump(to_mapping(config), sort_keys=False))

    patiently(note)


def _for_tune(metrics: Metrics) -> Metrics:
    """TensorBoard would show the histogram of a list's numbers; the counts of a histogram, a tuple, it leaves out."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in metrics.items()}


class SweepTrial(tune.Trainable):
    """Trains one epoch a step. A trial that fails by itself says so in its result; its actor takes the next."""

    def setup(
        self,
        config: dict[str, Any],
        store: str,
        fixed: dict[str, Any],
        folder: str,
        trunk: tuple[str, float] | None,
    ) -> None:
        """Once an actor: open the store. `fixed` lies under each trial's configuration; `trunk` as train takes it."""
        self.store, self.fixed, self.folder = Store.open(local_store(Path(store))), fixed, Path(folder)
        self.trunk = trunk
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Once a trial: start, or go on with, its training."""
        config = suggested_config(new_config, self.fixed)
        folder = trial_folder(self.folder, new_config[TRIAL_NUMBER])
        self.last_epoch, self.total_epochs = 0, config.epochs
        self.results = train_trial(config, self.store, folder, self.trunk)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch's metrics, or, after an error, a last result with the key `error`."""
        try:
            metrics = next(self.results)
        except OWN_FAULT as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                torch.cuda.empty_cache()
            return {"error": reason_of(error), "epoch": self.last_epoch, METRIC: math.nan, "done": True}
        self.last_epoch = metrics["epoch"]
        return {**_for_tune(metrics), "done": self.last_epoch == self.total_epochs}


def train_in_worker(
    config: dict[str, Any], store: str, folder: str, trunk: tuple[str, float] | None, seed: bool
) -> None:
    """Runs in each of several workers: train_seed, or train_trial, with each result reported to Ray Train.

    Raises TrialFailed for what the trial does to itself.
    """
    epoch = 0
    try:
        trial, data, files = from_mapping(config), Store.open(local_store(Path(store))), Path(folder)
        for metrics in train_seed(trial, data, files) if seed else train_trial(trial, data, files, trunk):
            ray.train.report(_for_tune(metrics))
            epoch = metrics["epoch"]
    except OWN_FAULT as error:
        raise TrialFailed(reason_of(error), epoch) from None
