"""Given trainings, as many at a time as fit: the seeds of a test, or candidates on other data sets."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ray import tune
from ray.tune.experiment import Trial

from raygap.search.placement import RETRIES, CountTriesAnew, Placement, fit, why_given_up
from raygap.search.together import DRIVER, GiveBack, run_training
from raygap.search.training import Training
from raygap.tracking.seed_results import TrainingsBar
from raygap.tracking.wandb.callback import TUNES_OWN
from raygap.training.trainer import Metrics

Key = TypeVar("Key", bound=Hashable)


def run_trainings(
    trainings: dict[Key, Training], placement: Placement, report: Callable[[Key, Metrics], None] = lambda key, row: None
) -> tuple[dict[Key, Metrics], dict[Key, str]]:
    """Run each training, or go on with it; returns the last metrics of those that ended, and why others failed.

    `report` is told of every epoch. Ray must be running. What dies is started again as a sweep's trial is, and what
    fails does not end the others. Raises KeyboardInterrupt once Ctrl-C has stopped them; the folders are gone on with.
    """
    if not trainings:
        return {}, {}
    watch = _Watch(trainings, report)
    trainable = tune.with_parameters(run_training, trainings=list(trainings.values()), placement=placement)
    tuner = tune.Tuner(
        tune.with_resources(trainable, DRIVER if placement.workers > 1 else placement.each),
        param_space={"training": tune.grid_search(list(range(len(trainings))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=placement.at_once, reuse_actors=placement.workers == 1),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(next(iter(trainings.values())).folder.parent),
            verbose=0,
            callbacks=[CountTriesAnew(), watch, *([GiveBack()] if placement.workers > 1 else [])],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    fit(tuner, keys=any(training.copies for training in trainings.values()))
    if len(watch.ended) < len(trainings):
        raise KeyboardInterrupt
    return {key: row for key, row in watch.rows.items() if key not in watch.failed}, watch.failed


class _Watch(tune.Callback):
    def __init__(self, trainings: dict[Any, Training], report: Callable[[Any, Metrics], None]) -> None:
        self.trainings, self.report = list(trainings.items()), report
        self.bar = report if isinstance(report, TrainingsBar) else None
        self.rows: dict[Any, Metrics] = {}
        self.failed: dict[Any, str] = {}
        self.ended: set[Any] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into a file that nobody reads; a progress bar cannot be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A training starts, or starts again."""
        if self.bar:
            key, training = self.trainings[trial.config["training"]]
            self.bar.start(key, training.folder, training.config.epochs)

    def on_step_end(self, **info: Any) -> None:
        """Tune calls this about every second."""
        if self.bar:
            self.bar.look()

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """An epoch ended, or the training says why it failed."""
        key = self._key(trial)
        if "error" in result:
            self.failed[key] = result["error"]
        else:
            self.rows[key] = {name: value for name, value in result.items() if name not in TUNES_OWN}
            self.report(key, self.rows[key])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A training came to its end, or to that of its own fault."""
        self._end(self._key(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A training was given up."""
        key = self._key(trial)
        self._end(key)
        self.failed[key] = why_given_up(trial)

    def _key(self, trial: Trial) -> Any:
        return self.trainings[trial.config["training"]][0]

    def _end(self, key: Any) -> None:
        self.ended.add(key)
        if self.bar:
            self.bar.end(key)
