"""Where trials train: in a Tune actor, which serves one after another, or in the workers of a Ray TorchTrainer."""

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
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.tracking.run_folder import trial_folder
from raygap.training.run import test, train

OWN_FAULT = (TrainingDiverged, UserError, torch.cuda.OutOfMemoryError)
"""What a trial does to itself, and would do again. Anything else may be the machine's fault: it is started again."""


def reason_of(error: Exception) -> str:
    """One line on an error of OWN_FAULT."""
    reason = str(error).splitlines()[0]
    return f"out of GPU memory: {reason}" if isinstance(error, torch.cuda.OutOfMemoryError) else reason


def begin(folder: Path, config: TrialConfig) -> None:
    """Make a trial's folder, and note its configuration there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))


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
        self.trunk = trunk and (Path(trunk[0]), trunk[1])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Once a trial: make its folder and start, or go on with, its training."""
        config = suggested_config(new_config, self.fixed)
        folder = trial_folder(self.folder, new_config[TRIAL_NUMBER])
        begin(folder, config)
        self.last_epoch, self.total_epochs = 0, config.epochs
        self.results: Iterator[dict[str, Any]] = train(config, self.store, folder, trunk=self.trunk)
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
        return {**metrics, "done": self.last_epoch == self.total_epochs}


def train_in_worker(
    config: dict[str, Any], store: str, folder: str, trunk: tuple[str, float] | None, then_test: bool
) -> None:
    """Runs in each of several workers: report each epoch to Ray Train; `then_test`, the test split with the last.

    Raises TrialFailed for what the trial does to itself. Whatever else happens, the trial is started again.
    """
    trial, files, epoch = from_mapping(config), Path(folder), 0
    first = ray.train.get_context().get_world_rank() == 0
    try:
        data = Store.open(local_store(Path(store)))
        if first:
            begin(files, trial)
        metrics: dict[str, Any] = {}
        for metrics in train(trial, data, files, trunk=trunk and (Path(trunk[0]), trunk[1])):
            epoch = metrics["epoch"]
            ray.train.report(metrics)
        if then_test:
            dist.destroy_process_group()  # the first worker tests alone
            ray.train.report(metrics | test(files, data) if first else {})
    except OWN_FAULT as error:
        raise TrialFailed(reason_of(error), epoch) from None
