"""One configuration over several seeds: the honest test number. A seed is a Ray task and reads the test split once."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from scipy import stats

from raygap.config import TrialConfig, from_mapping, to_mapping
from raygap.data.store import Store
from raygap.training.run import test, train

TEST_METRICS = tuple(f"test_{m}{s}" for m in ("", "audio_", "visual_") for s in ("accuracy", "macro_f1"))


@dataclass(frozen=True)
class Interval:
    """Mean, standard deviation (n - 1) and half width of the 95 % t-interval; both NaN for a single value."""

    mean: float
    std: float
    half_width: float

    @classmethod
    def of(cls, values: list[float]) -> "Interval":
        """Of independent values, one a seed."""
        if len(values) < 2:
            return cls(float(np.mean(values)), float("nan"), float("nan"))
        std = float(np.std(values, ddof=1))
        return cls(float(np.mean(values)), std, float(stats.t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5)


@dataclass(frozen=True)
class SeedResults:
    """`rows`: test metrics by seed; `failed`: the reason by seed that did not end."""

    rows: dict[int, dict[str, Any]]
    failed: dict[int, str]

    def interval(self, metric: str) -> Interval:
        """Over the seeds that ended."""
        return Interval.of([row[metric] for row in self.rows.values()])


def train_seeds(
    config: TrialConfig,
    store: Path,
    folder: Path,
    seeds: list[int],
    resources: dict[str, float],
    report: Callable[[int, dict[str, Any]], None],
) -> SeedResults:
    """Train a configuration on each seed, as many at a time as `resources` allow, and read the test split.

    A seed's folder that holds a checkpoint is gone on with. `report(seed, metrics)` is called after every epoch. Ray
    must be running. A seed that fails is reported in the result and does not end the others.
    """
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
            failed[seed] = str(getattr(error, "cause", None) or error).splitlines()[0]
        else:
            rows[seed] = metrics
            report(seed, metrics)
    return SeedResults({s: rows[s] for s in sorted(rows) if s not in failed and "test_accuracy" in rows[s]}, failed)


def _train_seed(config: dict[str, Any], store: str, folder: str) -> Iterator[dict[str, Any]]:
    """Metrics of each epoch, then those of the test split with the last epoch's beside them."""
    run, data = Path(folder), Store.open(Path(store))
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
    done.write_text(json.dumps({"of": identity, "metrics": metrics}, indent=1))
    (run / "checkpoint.pt").unlink()
    yield metrics
