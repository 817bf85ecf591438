"""Configurations over several seeds: the honest test numbers. Each seed reads the test split once."""

from pathlib import Path
from typing import Any

from raygap.config import TrialConfig
from raygap.data.store import Store
from raygap.patience import patiently
from raygap.schema import from_mapping, to_mapping
from raygap.search.placement import Placement
from raygap.search.training import Training
from raygap.search.trainings import run_trainings
from raygap.search.trial import tested_before, tested_by
from raygap.storage import Copies
from raygap.tracking.run_folder import FAILED, TEST, with_facts, write_csv
from raygap.tracking.seed_results import TEST_METRICS, Reporter, SeedResults
from raygap.tracking.worth import AHEAD, CHOSEN, CONFIGURATION, CORRECTED_METRICS, EPOCHS
from raygap.training.trunk import SharedWarmups


def train_seeds(
    config: TrialConfig,
    store: Path,
    folder: Path,
    seeds: list[int],
    placement: Placement,
    report: Reporter,
    copies: Copies | None = None,
    trunk: SharedWarmups | None = None,
    references: dict[str, TrialConfig] | None = None,
) -> dict[str, SeedResults]:
    """Train a configuration and its references on each seed, as many at a time as `placement` allows, and read test.

    The results are by name: CHOSEN, and those of `references`. A seed's folder that holds a checkpoint is gone on with;
    test.csv in `folder` gets a row a configuration and seed, with what made it. Ray must be running. A seed that fails
    is named in the results and in failed.csv, and does not end the others. Raises KeyboardInterrupt after Ctrl-C.
    Warm-ups are shared in `trunk` with other configurations that had these seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configs = {CHOSEN: config} | (references or {})
    # Seed by seed within a configuration: two that share a warm-up would wait for each other if they ran side by side.
    keys = [(name, seed) for name in configs for seed in seeds]
    known, trainings = {}, {}
    opened = Store.open(store)
    for name, seed in keys:
        seeded, place = from_mapping(to_mapping(configs[name]) | {"seed": seed}), _place(name, seed)
        if metrics := tested_before(seeded, opened, folder / place):
            known[name, seed] = metrics
            report(_told(name, seed), metrics)
        else:
            kept = copies and copies.at(place.as_posix())
            trainings[_told(name, seed)] = Training(seeded, store, folder.resolve() / place, trunk, kept, test=True)
    rows, failed = run_trainings(trainings, placement, report)
    if copies:
        patiently(lambda: copies.folder.pull_all(folder, without=("checkpoint.pt",)))
    results = {
        name: SeedResults(
            {seed: row for seed in seeds if (row := known.get((name, seed)) or rows.get(_told(name, seed)))},
            {seed: failed[_told(name, seed)] for seed in seeds if _told(name, seed) in failed},
            one.protocol,
        )
        for name, one in configs.items()
    }
    write_results(results, folder)
    return results


def _place(name: str, seed: int) -> Path:
    """Folder of a training, below that of all."""
    return Path(str(seed)) if name == CHOSEN else Path(name, str(seed))


def _told(name: str, seed: int) -> Any:
    """A training's name for its user, behind the word seed."""
    return seed if name == CHOSEN else f"{seed} of {name}"


def write_results(results: dict[str, SeedResults], folder: Path) -> None:
    """test.csv, a row a configuration and seed, and failed.csv."""
    columns = ("best_epoch", "best_val_accuracy", *TEST_METRICS, *CORRECTED_METRICS, *EPOCHS)
    header, table, made, failures = ["seed", *columns, "protocol"], [], [], []
    several = len(results) > 1
    for name, found in results.items():
        chosen = results[CHOSEN].rows
        for seed, row in found.rows.items():
            cells = [seed, *(row.get(column) for column in columns), found.protocol]
            if several:
                ahead = chosen[seed]["test_accuracy"] - row["test_accuracy"] if seed in chosen else None
                cells += [name, None if name == CHOSEN else ahead]
            table.append(cells)
            made.append(tested_by(folder / _place(name, seed)))
        failures += [[seed, reason, *([name] if several else [])] for seed, reason in found.failed.items()]
    header += [CONFIGURATION, AHEAD] if several else []
    write_csv(folder / TEST, *with_facts(header, table, made))
    write_csv(folder / FAILED, ["seed", "reason", *([CONFIGURATION] if several else [])], failures)
