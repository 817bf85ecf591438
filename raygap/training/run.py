"""A training run in a folder: it goes on from the folder's checkpoint and leaves there what is worth keeping.

checkpoint.pt   everything the next epoch needs, and the metrics of every epoch so far (removed with `finish`)
best.pt         weights of the selected epoch, with optimizer.ema their average, and what using them takes:
                configuration, class names, statistics; and what made them (made_by); none before the adaptive stage,
                in a run that has one: the warm-up's epochs are never selected there
metrics.parquet one row an epoch
ledger.parquet  one row a training clip: scores and gap, after the warm-up and now; the scores' means over all epochs
                and, where there is one, the history; posteriors as the loss sees them
"""

import os
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygap.config import TrialConfig
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.models.encoders import MEDIA
from raygap.models.network import Network
from raygap.pace import Told
from raygap.patience import patiently
from raygap.provenance import made_by
from raygap.schema import from_mapping, to_mapping
from raygap.storage import Storage
from raygap.training import checkpoint
from raygap.training.histories import Histories, wants_history
from raygap.training.trainer import Metrics, Trainer, trial_network
from raygap.training.trunk import SharedWarmups, Trunk, warmup_key


def train(
    config: TrialConfig,
    store: Store,
    folder: Path,
    method: type[Method] | None = None,
    trunk: SharedWarmups | None = None,
    storage: Storage | None = None,
    tell: Callable[[Told], None] | None = None,
) -> Generator[Metrics, None, None]:
    """Train a configuration and yield the metrics of each epoch, first those that the folder's checkpoint holds.

    Warm-ups are shared in `trunk`, histories beside it, or beside `folder`; `storage` gets a copy of each file; `tell`
    is called now and then. Where several workers train together, all run this, and only the first tells, and reads and
    writes files; it waits for a file system that refuses (see patiently).

    Raises TrainingDiverged when the loss is not finite, UserError when the folder holds a run of another configuration
    or store, or the workers are not compute.workers.
    """
    trainer = Trainer(config, store, method)
    workers = trainer.workers
    if tell and workers.first:
        trainer.pace.tell = tell
    if workers.size != config.compute.workers:
        raise UserError(
            f"compute.workers = {config.compute.workers}, but {workers.size} train; use --workers-per-trial"
        )
    identity = {"config": to_mapping(config), "store": store.header["key"]}
    made = made_by() if workers.first else {}
    history: list[Metrics] = []
    saved = None
    if workers.first:
        patiently(lambda: folder.mkdir(parents=True, exist_ok=True))
        if (folder / "checkpoint.pt").exists():
            saved = patiently(lambda: checkpoint.load(folder / "checkpoint.pt", trainer.device))
    if saved := workers.broadcast(saved):
        # Not the mappings: an older raygap's has fewer fields.
        before = saved["identity"] | {"config": to_mapping(from_mapping(saved["identity"]["config"], str(folder)))}
        if before != identity:
            raise UserError(f"{folder}: holds a run of another configuration or data; choose another folder")
        trainer.load_state_dict(saved["trainer"])
        history = saved["history"]
        yield from history
    scored = {}
    if wants_history(config, type(trainer.method)) and not trainer.finished:

        def score(
            plain: TrialConfig, there: Path, copy: Storage | None, tell: Callable[[Told], None]
        ) -> Generator[Metrics, None, None]:
            return train(plain, store, there, storage=copy, tell=tell)

        histories = Histories.beside(trunk, folder, storage)
        trainer.ledger.history, epochs = histories.of(config, store, workers, score, tell)
        scored = {"scoring_epochs": history[-1].get("scoring_epochs", 0) if history else epochs}
    shared = trunk and Trunk(trunk, warmup_key(config, store.header["key"], type(trainer.method)))
    while not trainer.finished:
        # A trial that only warms up selects its epoch there, and so has more to note than the trunk holds.
        warming = trainer.epoch < config.warmup.epochs < config.epochs
        rows = shared.advance(trainer, history) if shared and warming else [trainer.train_epoch()]
        for metrics in rows:
            metrics.setdefault("epochs_reused", history[-1]["epochs_reused"] if history else 0)
            metrics |= scored
            history.append(metrics)
        if workers.first:
            written = patiently(lambda: _keep(folder, trainer, history, identity, made))
            if storage:
                patiently(partial(storage.push, folder, written))
        yield from rows


def _keep(folder: Path, trainer: Trainer, history: list[Metrics], identity: Metrics, made: dict[str, str]) -> list[str]:
    """Returns the names of the files. The checkpoint comes last: what it tells of lies beside it."""
    warming = trainer.epoch <= trainer.config.warmup.epochs < trainer.config.epochs
    best = trainer.best_epoch == trainer.epoch and not warming
    if best:
        usage = {"class_names": list(trainer.store.class_names), "statistics": trainer.store.header["statistics"]}
        usage["channels"] = dict(trainer.network.channels)
        weights = {"network": trainer.validated.state_dict(), "made_by": made}
        checkpoint.save({**identity, **usage, **weights}, folder / "best.pt")
    write_table(folder / "metrics.parquet", _columns(history))
    write_table(folder / "ledger.parquet", _ledger_columns(trainer))
    state = {"identity": identity, "trainer": trainer.state_dict(), "history": history}
    checkpoint.save(state, folder / "checkpoint.pt")
    return [*(["best.pt"] if best else []), "metrics.parquet", "ledger.parquet", "checkpoint.pt"]


def load_network(path: Path, classes: int) -> tuple[TrialConfig, Network]:
    """Configuration and weights of a best.pt. Raises UserError if it is damaged or was made for other classes."""
    saved = checkpoint.load(path)
    config = from_mapping(saved["config"], str(path))
    channels = saved.get("channels", MEDIA)
    network = trial_network(config, classes, find_method(config.method), channels, weights=False)
    try:
        network.load_state_dict(saved["network"])
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit this data set ({str(error).splitlines()[-1].strip()})") from None
    return config, network


def write_table(path: Path, columns: Mapping[str, list | np.ndarray]) -> None:
    """Write a parquet file, whole or not at all; NaN, which stands for a value not known yet, becomes null."""
    # Named after the process: a trial that was started again may still be at work on a machine that was given up.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), partial)
    partial.replace(path)


def _columns(history: list[Metrics]) -> dict[str, list]:
    names = dict.fromkeys(name for metrics in history for name in metrics)
    return {name: [metrics.get(name) for metrics in history] for name in names}


def _ledger_columns(trainer: Trainer) -> dict[str, list | np.ndarray]:
    ids = [trainer.store.clip_ids[row] for row in trainer.rows]
    labels = [trainer.store.class_names[label] for label in trainer.labels]
    after_warmup = {f"{name}_after_warmup": scores for name, scores in trainer.after_warmup.items()}
    return {"clip": ids, "label": labels, **trainer.ledger.columns(), **after_warmup}
