"""One trial of a sweep inside a Tune actor, which serves one trial after another."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray import tune

from raygap.config import from_mapping, to_mapping
from raygap.data.store import Store
from raygap.errors import TrainingDiverged
from raygap.search.study import METRIC, TRIAL_NUMBER
from raygap.tracking.run_folder import trial_folder
from raygap.training.run import train


class SweepTrial(tune.Trainable):
    """Trains one epoch a step. A trial that fails says so in its result: its actor lives on and takes the next one."""

    def setup(
        self,
        config: dict[str, Any],
        store: str,
        fixed: dict[str, Any],
        folder: str,
        trunk: tuple[str, float] | None,
    ) -> None:
        """Once an actor: open the store. `fixed` lies under each trial's configuration; `trunk` as train takes it."""
        self.store, self.fixed, self.folder = Store.open(Path(store)), fixed, Path(folder)
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
        except TrainingDiverged as error:
            return self._failure(str(error))
        except Exception as error:
            return self._failure(f"{type(error).__name__}: {error}")
        self.last_epoch = metrics["epoch"]
        return {**metrics, "done": self.last_epoch == self.total_epochs}

    def _failure(self, reason: str) -> dict[str, Any]:
        return {"error": reason.splitlines()[0], "epoch": self.last_epoch, METRIC: math.nan, "done": True}
