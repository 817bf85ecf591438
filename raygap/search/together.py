"""Tune's functions. A trial of several workers is a Ray TorchTrainer, which a Tune trial starts and waits for.

This module is imported by two processes a trial that do no work: what trains is imported in the workers.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.tune.integration.ray_train import TuneReportCallback

from raygap.errors import TrialFailed
from raygap.search.placement import Placement, remove_orphans
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.search.training import Training
from raygap.storage import Copies, machine_folder
from raygap.tracking.run_folder import trial_folder

if TYPE_CHECKING:
    from raygap.training.trunk import SharedWarmups

DRIVER = {"node:__internal_head__": 0.001}
"""Resources of the Tune trial: it does no work, and is safest on the head. Workers are placed by Ray Train."""


def run_trial(
    suggested: dict[str, Any],
    store: Path,
    fixed: dict[str, Any],
    folder: Path,
    trunk: "SharedWarmups | None",
    copies: Copies | None,
    metric: str,
    seeds: int,
    placement: Placement,
) -> None:
    """Tune's function of a sweep's trial of several workers; the arguments after the first are the sweep's."""
    place = trial_folder(Path(), suggested[TRIAL_NUMBER])
    copies = copies and copies.at(place.as_posix())
    config = suggested_config(suggested, fixed)
    _train(Training(config, store, folder / place, trunk, copies, metric=metric, seeds=seeds), placement)


def run_training(suggested: dict[str, Any], trainings: list[Training], placement: Placement) -> None:
    """Tune's function of one of several trainings."""
    training = trainings[suggested["training"]]
    if placement.workers > 1:
        _train(training, placement)
        return
    from raygap.search.trial import train_in_worker

    with _reported_to_tune():
        train_in_worker(training, tune.report)


def _train(training: Training, placement: Placement) -> None:
    """Train with placement.workers processes, which report to Tune.

    A worker that dies ends this with an error: Tune, which counts the tries, starts the trial again, and it goes on
    from its folder's checkpoint.
    """
    # Seconds between two looks at the workers; each look passes on one epoch at most.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # One more process: it asks for a checkpoint when a machine is about to go, and there is one after every epoch.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gpus = placement.each.get("GPU", 0)
    folder = training.folder
    trainer = _Trainer(
        _work,
        train_loop_config={"training": training},
        scaling_config=ScalingConfig(
            num_workers=placement.workers, use_gpu=bool(gpus), resources_per_worker=placement.each
        ),
        # Two workers on one GPU cannot talk over NCCL.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"),
        run_config=RunConfig(
            name=f"{folder.parent.parent.name}-{folder.name}",
            storage_path=str(machine_folder() / "train"),  # gets nothing but a marker
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # its hints leave out Train's own kind
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    with _reported_to_tune():
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raise next((e for e in error.worker_failures.values() if isinstance(e, TrialFailed)), error) from None


@contextmanager
def _reported_to_tune() -> Iterator[None]:
    """What a training does to itself is its last result: Tune would start it again after an error."""
    try:
        yield
    except TrialFailed as failed:
        reason, last = failed.args
        tune.report({"error": reason, **last, METRIC: math.nan})


class _Trainer(TorchTrainer):
    def _create_default_callbacks(self) -> list:
        # Each is one more process a trial, which imports Ray before the workers may begin. Ray's cleaner of placement
        # groups learns of a group only when its workers run, and needs a State API that answers, which it does not
        # where two clusters share a machine: see remove_orphans. The other hands out Ray Datasets, which we have not.
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        given = super()._create_default_callbacks()  # type: ignore[misc]  # its module is not typed
        return [c for c in given if not isinstance(c, needless)]


class GiveBack(tune.Callback):
    """Gives back what the cluster still holds for trials that were stopped or died, every second."""

    last = 0.0

    def on_step_end(self, **info: Any) -> None:
        """Tune calls this all the time."""
        if time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            remove_orphans()


def _work(given: dict[str, Any]) -> None:
    from raygap.search.trial import train_in_worker

    train_in_worker(given["training"], ray.train.report)
