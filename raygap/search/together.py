"""A trial of several workers: a Ray TorchTrainer, started by a Tune trial that itself only waits for it.

This module is imported by two processes a trial that do no work: what trains is imported in the workers.
"""

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.tune.integration.ray_train import TuneReportCallback

from raygap.config import TrialConfig, from_mapping, to_mapping
from raygap.errors import TrialFailed
from raygap.search.cluster import Placement, remove_orphans
from raygap.search.study import METRIC, TRIAL_NUMBER, suggested_config
from raygap.tracking.run_folder import trial_folder

DRIVER = {"node:__internal_head__": 0.001}
"""Resources of the Tune trial: it does no work, and is safest on the head. Workers are placed by Ray Train."""


def run_trial(
    suggested: dict[str, Any],
    store: str,
    fixed: dict[str, Any],
    folder: str,
    trunk: tuple[str, float] | None,
    placement: Placement,
) -> None:
    """Tune's function of a trial of a sweep; the arguments after the first are the sweep's."""
    files = trial_folder(Path(folder), suggested[TRIAL_NUMBER])
    _train(suggested_config(suggested, fixed), store, files, trunk, placement, seed=False)


def run_seed(suggested: dict[str, Any], config: dict[str, Any], store: str, folder: str, placement: Placement) -> None:
    """Tune's function of a test run, of which it gives the seed."""
    files = Path(folder, str(suggested["seed"]))
    _train(from_mapping(config | suggested), store, files, None, placement, seed=True)


def run_candidate(
    suggested: dict[str, Any], trainings: list[tuple[dict[str, Any], str, str]], placement: Placement
) -> None:
    """Tune's function of one of several trainings, each its configuration, store and folder."""
    config, store, folder = trainings[suggested["training"]]
    _train(from_mapping(config), store, Path(folder), None, placement, seed=False)


def _train(
    config: TrialConfig,
    store: str,
    folder: Path,
    trunk: tuple[str, float] | None,
    placement: Placement,
    seed: bool,
) -> None:
    """Train with placement.workers processes, which report to Tune.

    A worker that dies ends this with an error: Tune, which counts the tries, starts the trial again, and it goes on
    from its folder's checkpoint.
    """
    # Seconds between two looks at the workers; each look passes on one epoch at most.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    gpus = placement.each.get("GPU", 0)
    trainer = _Trainer(
        _work,
        train_loop_config={
            "config": to_mapping(config),
            "store": store,
            "folder": str(folder),
            "trunk": trunk,
            "seed": seed,
        },
        scaling_config=ScalingConfig(
            num_workers=placement.workers, use_gpu=bool(gpus), resources_per_worker=placement.each
        ),
        # Two workers on one GPU cannot talk over NCCL.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus >= 1 else "gloo"),
        run_config=RunConfig(
            name=f"{folder.parent.parent.name}-{folder.name}",
            storage_path=str(Path(tempfile.gettempdir(), "raygap-train")),  # gets nothing but a marker
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        failed = next((e for e in error.worker_failures.values() if isinstance(e, TrialFailed)), None)
        if not failed:
            raise
        reason, epoch = failed.args
        tune.report({"error": reason, "epoch": epoch, METRIC: math.nan})


class _Trainer(TorchTrainer):
    def _create_default_callbacks(self) -> list:
        # Ray's cleaner of placement groups is one more process a trial, learns of a group only when its workers run,
        # and needs a State API that answers, which it does not where two clusters share a machine. See remove_orphans.
        return [c for c in super()._create_default_callbacks() if not isinstance(c, PlacementGroupCleanerCallback)]


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

    train_in_worker(**given)
