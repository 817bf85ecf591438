"""One configuration over several seeds: the honest test number. A seed is a Ray task and reads the test split once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import yaml

from raygap.config import TrialConfig, from_mapping, to_mapping
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.tracking.run_folder import FAILED, TEST, write_csv, write_text
from raygap.tracking.seed_results import TEST_METRICS, Reporter, SeedResults
from raygap.training.run import test, train


def train_seeds(
    config: TrialConfig,
    store: Path,
    folder: Path,
    seeds: list[int],
    resources: dict[str, float],
    report: Reporter,
) -> SeedResults:
    """Train a configuration on each seed, as many at a time as `resources` allow, and read the test split.

    A seed's folder that holds a checkpoint is gone on with; test.csv in `folder` gets a row a seed. Ray must be
    running. A seed that fails is named in the result and in failed.csv, and does not end the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = ray.remote(_train_seed).options(
        num_cpus=resources.get("CPU", 0), num_gpus=resources.get("GPU", 0), max_retries=2, num_returns="streaming"
    )
    waiting = {
        task.remote(to_mapping(config) | {"seed": seed}, str(store), str((folder / str(seed)).resolve())): seed
        for seed in seeds
    }
    rows: dict[int, dict[str, Any]] = {}
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
    tested = {seed: rows[seed] for seed in seeds if "test_accuracy" in rows.get(seed, {})}
    columns = ("best_epoch", "best_val_accuracy", *TEST_METRICS)
    table = [[seed, *(row[name] for name in columns)] for seed, row in tested.items()]
    write_csv(folder / TEST, ["seed", *columns], table)
    write_csv(folder / FAILED, ["seed", "reason"], [list(item) for item in failed.items()])
    return SeedResults(tested, failed)


def _train_seed(config: dict[str, Any], store: str, folder: str) -> Iterator[dict[str, Any]]:
    """Metrics of each epoch, then those of the test split with the last epoch's beside them."""
    run, data = Path(folder), Store.open(local_store(Path(store)))
    run.mkdir(parents=True, exist_ok=True)
    done = run / "test.json"
    identity = {"config": config, "store": data.header["key"]}
    if done.exists() and (earlier := json.loads(done.read_text()))["of"] == identity:
        yield earlier["metrics"]
        return
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    metrics: dict[str, Any] = {}
    for metrics in train(from_mapping(config, str(run / "config.yaml")), data, run):
        yield metrics
    metrics |= test(run, data)
    write_text(done, json.dumps({"of": identity, "metrics": metrics}, indent=1))
    (run / "checkpoint.pt").unlink()
    yield metrics
