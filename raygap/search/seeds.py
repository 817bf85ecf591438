"""One configuration over several seeds: the honest test number. Each seed reads the test split once."""

from pathlib import Path

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
) -> SeedResults:
    """Train a configuration on each seed, as many at a time as `placement` allows, and read the test split.

    A seed's folder that holds a checkpoint is gone on with; test.csv in `folder` gets a row a seed, with what made it.
    Ray must be running. A seed that fails is named in the result and in failed.csv, and does not end the others. Raises
    KeyboardInterrupt after Ctrl-C. Warm-ups are shared in `trunk` with other configurations that had these seeds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known, opened = {}, Store.open(store)
    trainings = {}
    for seed in seeds:
        seeded, place = from_mapping(to_mapping(config) | {"seed": seed}), folder.resolve() / str(seed)
        if metrics := tested_before(seeded, opened, place):
            known[seed] = metrics
            report(seed, metrics)
        else:
            trainings[seed] = Training(seeded, store, place, trunk, copies and copies.at(str(seed)), test=True)
    rows, failed = run_trainings(trainings, placement, report)
    rows |= known
    if copies:
        patiently(lambda: copies.folder.pull_all(folder, without=("checkpoint.pt",)))
    tested = {seed: rows[seed] for seed in seeds if seed in rows}
    columns = ("best_epoch", "best_val_accuracy", *TEST_METRICS)
    table = [[seed, *(row[name] for name in columns), config.protocol] for seed, row in tested.items()]
    made = [tested_by(folder / str(seed)) for seed in tested]
    write_csv(folder / TEST, *with_facts(["seed", *columns, "protocol"], table, made))
    write_csv(folder / FAILED, ["seed", "reason"], [list(item) for item in failed.items()])
    return SeedResults(tested, failed, config.protocol)
