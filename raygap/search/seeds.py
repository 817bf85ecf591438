"""One configuration over several seeds: the honest test number. Each seed reads the test split once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from raygap.config import TrialConfig, from_mapping, to_mapping
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.search.cluster import RETRIES, CountTriesAnew, Placement, fit
from raygap.search.together import DRIVER, GiveBack, run_seed
from raygap.search.trial import train_seed
from raygap.tracking.run_folder import FAILED, TEST, write_csv
from raygap.tracking.seed_results import TEST_METRICS, Reporter, SeedResults
from raygap.training.trainer import Metrics


def train_seeds(
    config: TrialConfig,
    store: Path,
    folder: Path,
    seeds: list[int],
    placement: Placement,
    report: Reporter,
) -> SeedResults:
    """Train a configuration on each seed, as many at a time as `placement` allows, and read the test split.

    A seed's folder that holds a checkpoint is gone on with; test.csv in `folder` gets a row a seed. Ray must be
    running. A seed that fails is named in the result and in failed.csv, and does not end the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train = _train_alone if placement.workers == 1 else _train_together
    rows, failed = train(config, store, folder.resolve(), seeds, placement, report)
    tested = {seed: rows[seed] for seed in seeds if "test_accuracy" in rows.get(seed, {})}
    columns = ("best_epoch", "best_val_accuracy", *TEST_METRICS)
    table = [[seed, *(row[name] for name in columns)] for seed, row in tested.items()]
    write_csv(folder / TEST, ["seed", *columns], table)
    write_csv(folder / FAILED, ["seed", "reason"], [list(item) for item in failed.items()])
    return SeedResults(tested, failed)


def _train_alone(
    config: TrialConfig, store: Path, folder: Path, seeds: list[int], placement: Placement, report: Reporter
) -> tuple[dict[int, Metrics], dict[int, str]]:
    """A seed a Ray task. Returns the last metrics, and the reasons of those that failed, by seed."""
    cpus, gpus = placement.each.get("CPU", 0), placement.each.get("GPU", 0)
    task = ray.remote(_train_seed).options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, num_returns="streaming")
    waiting = {
        task.remote(to_mapping(config) | {"seed": seed}, str(store), str(folder / str(seed))): seed for seed in seeds
    }
    rows: dict[int, Metrics] = {}
    failed: dict[int, str] = {}
    while waiting:
        [ready], _ = ray.wait(list(waiting), num_returns=1)
        seed = waiting[ready]
        try:
            metrics = ray.get(next(ready))
        except StopIteration:
            del waiting[ready]
        except Exception as error:
            del waiting[ready]
            cause = getattr(error, "cause", None) or error
            failed[seed] = f"{type(cause).__name__}: {cause}".splitlines()[0]
        else:
            rows[seed] = metrics
            report(seed, metrics)
    return rows, failed


def _train_seed(config: dict[str, Any], store: str, folder: str) -> Iterator[Metrics]:
    yield from train_seed(from_mapping(config), Store.open(local_store(Path(store))), Path(folder))


def _train_together(
    config: TrialConfig, store: Path, folder: Path, seeds: list[int], placement: Placement, report: Reporter
) -> tuple[dict[int, Metrics], dict[int, str]]:
    """As _train_alone, but a seed is a Tune trial of several workers."""
    watch = _Watch(report)
    trainable = tune.with_parameters(
        run_seed, config=to_mapping(config), store=str(store), folder=str(folder), placement=placement
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, DRIVER),
        param_space={"seed": tune.grid_search(seeds)},
        tune_config=tune.TuneConfig(max_concurrent_trials=placement.at_once),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            callbacks=[CountTriesAnew(), watch, GiveBack()],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    fit(tuner)
    return watch.rows, watch.failed


@dataclass
class _Watch(tune.Callback):
    report: Reporter
    rows: dict[int, Metrics] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        seed = trial.config["seed"]
        if "error" in result:
            self.failed[seed] = result["error"]
        else:
            self.rows[seed] = result
            self.report(seed, result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.failed[trial.config["seed"]] = f"its workers died {RETRIES + 1} times; see {trial.local_path}/error.txt"
