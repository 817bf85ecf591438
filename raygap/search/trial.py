"""One trial of a sweep inside a Tune actor, which serves one trial after another."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from ray import tune

from raygap.config import from_mapping, to_mapping
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.errors import TrainingDiverged, UserError
from raygap.search.study import METRIC, TRIAL_NUMBER
from raygap.tracking.run_folder import trial_folder
from raygap.training.run import train


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
        number = new_config[TRIAL_NUMBER]
        params = {path: value for path, value in new_config.items() if path != TRIAL_NUMBER}
        trial_config = from_mapping(self.fixed | params, f"trial {number}")
        folder = trial_folder(self.folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(to_mapping(trial_config), sort_keys=False))
        self.last_epoch, self.total_epochs = 0, trial_config.epochs
        self.results: Iterator[dict[str, Any]] = train(trial_config, self.store, folder, trunk=self.trunk)
        return True

    def step(self) -> dict[str, Any]:
        """The next epoch's metrics, or, after an error, a last result with the key `error`."""
        try:
            metrics = next(self.results)
        except (TrainingDiverged, UserError) as error:
            return self._failure(str(error))
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            return self._failure(f"out of GPU memory: {error}")
        # Anything else may be the machine's fault or have broken this process: Tune starts the trial in a new one.
        self.last_epoch = metrics["epoch"]
        return {**metrics, "done": self.last_epoch == self.total_epochs}

    def _failure(self, reason: str) -> dict[str, Any]:
        return {"error": reason.splitlines()[0], "epoch": self.last_epoch, METRIC: math.nan, "done": True}
