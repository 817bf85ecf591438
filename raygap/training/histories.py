"""Histories of a training set: scores from whole plain trainings, done once and shared by all trials.

Beside the shared warm-ups, or the run folder, lies a folder with

<key>/           a scoring training: its checkpoint until it has ended, then scores.parquet, one row a training clip
<key>.parquet    a history: the mean of several of them, by clip, to look at: the lowest scores are the worst clips

A scoring training goes on where a killed one stopped, whoever comes next. Trials that want the same ones at once share
them out; those on machines that share no folder do not know of each other, and may both train them, with one result.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygap.config import TrialConfig, flatten
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.imbalance.ledger import MEANS
from raygap.locks import lock
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.pace import Told
from raygap.patience import patiently
from raygap.schema import field_paths, from_mapping, shapes_warmup
from raygap.storage import Storage
from raygap.training.trainer import Metrics, training_rows
from raygap.training.trunk import SIGN_EVERY, WORD_EVERY, SharedWarmups, Silence, warmup_key
from raygap.workers import Workers

FOLDER = ".histories"
SCORES = "scores.parquet"
SCORING = "unimodal_losses"
_ENDED = ("checkpoint.pt", "best.pt", "ledger.parquet")
"""What a scoring training leaves that nobody needs."""

Train = Callable[[TrialConfig, Path, Storage | None, Callable[[Told], None]], Iterator[Metrics]]
"""Trains a configuration in a folder, or goes on with it: run.train, which also asks for histories."""


def wants_history(config: TrialConfig, method: type[Method]) -> bool:
    """Whether the trial fits a mixture, and fits it to a history."""
    return config.gap.source == "history" and (method.guided or config.purify.epochs > 0)


def scoring_config(config: TrialConfig, run: int) -> TrialConfig:
    """The scoring training number `run` of a trial: what shapes its warm-up, to the end, with another seed."""
    known = field_paths(SCORING)
    fields = {
        path: value
        for path, value in flatten(config.model_dump()).items()
        if path in known and path != "method" and shapes_warmup(path, SCORING)
    }
    plain = {"method": SCORING, "warmup.epochs": 0, "loss.unimodal_weight": config.warmup.unimodal_weight}
    return from_mapping(fields | plain | {"seed": config.history.seed + run, "select_epoch": "last"})


def scoring_key(config: TrialConfig, store_key: str) -> str:
    """The same for two scoring trainings only if no number of them could differ: a warm-up's, and the epochs."""
    shaped = warmup_key(config, store_key, find_method(SCORING))
    return hashlib.sha256(json.dumps([shaped, config.epochs]).encode()).hexdigest()[:24]


def history_key(config: TrialConfig, store_key: str) -> str:
    """That of a trial's history: of its scoring trainings, in order."""
    keys = [scoring_key(scoring_config(config, run), store_key) for run in range(config.history.runs)]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


@dataclass
class Histories:
    """The folder of histories; with `storage` machines that share no folder find each other's there."""

    folder: Path
    storage: Storage | None = None

    @classmethod
    def beside(cls, shared: SharedWarmups | None, run: Path, kept: Storage | None) -> "Histories":
        """Beside the shared warm-ups, or where none are kept beside the run folder, whose storage is `kept`."""
        storage = shared.storage if shared else kept
        if storage := storage and storage.at("..", FOLDER):
            return cls(storage.scratch(), storage)
        return cls((shared.folder if shared else run).with_name(FOLDER))

    def of(
        self, config: TrialConfig, store: Store, workers: Workers, train: Train, tell: Callable[[Told], None] | None
    ) -> tuple[np.ndarray, int]:
        """The history of a trial, (2, N) float32, audio and visual, and how many epochs were trained for it here.

        All workers of the trial call it together. Raises UserError if a file there holds other clips.
        """
        runs = [scoring_config(config, run) for run in range(config.history.runs)]
        keys = [scoring_key(run, store.header["key"]) for run in runs]
        trained, silence = 0, {key: Silence() for key in keys}
        while missing := workers.broadcast(self._missing(keys) if workers.first else None):
            with self._turn(missing, silence, workers) as (key, told):
                if key is None:  # others are at work on all of them
                    continue
                storage = self.storage and self.storage.at(key)
                if storage and workers.first:
                    patiently(partial(storage.pull_all, self.folder / key))
                for _ in train(runs[keys.index(key)], self.folder / key, storage, _both(told, tell)):
                    trained += 1
                if workers.first:
                    patiently(partial(self._end, key))
        history = None
        if workers.first:
            history = np.mean([self._read(self.folder / key / SCORES, store, config) for key in keys], axis=0)
            history = history.astype(np.float32)
            self._show(self.folder / f"{history_key(config, store.header['key'])}.parquet", keys[0], history)
        return workers.broadcast(history), trained

    def _missing(self, keys: list[str]) -> list[str]:
        there = self.storage.files() if self.storage and not all(map(self._done, keys)) else {}
        for key in keys:
            if f"{key}/{SCORES}" in there and not self._done(key):
                patiently(partial(self.storage.at(key).pull, self.folder / key, [SCORES]))
        return [key for key in keys if not self._done(key)]

    def _done(self, key: str) -> bool:
        return (self.folder / key / SCORES).exists()

    @contextmanager
    def _turn(
        self, keys: list[str], silence: dict[str, "Silence"], workers: Workers
    ) -> Iterator[tuple[str | None, Callable[[Told], None]]]:
        """One of the trainings that nobody is at work on, and what keeps others from it as long as it is called."""
        with ExitStack() as held:
            key, told = None, lambda told: None
            if workers.first:
                key, told = self._take(keys, silence, held)
            yield workers.broadcast(key), told

    def _take(
        self, keys: list[str], silence: dict[str, "Silence"], held: ExitStack
    ) -> tuple[str | None, Callable[[Told], None]]:
        began = time.monotonic()
        while time.monotonic() - began < WORD_EVERY:
            for key in keys:
                if self._done(key):
                    return None, _nothing
                patiently(partial((self.folder / key).mkdir, parents=True, exist_ok=True))
                file = (self.folder / key / ".lock").open("a")
                try:
                    lock(file)
                except BlockingIOError:
                    if not silence[key].lasts(file):
                        file.close()
                        continue
                    _log().warning("%s: no sign of life of who is at work there; gone on with", self.folder / key)
                held.callback(file.close)
                if self._done(key):  # by who had the turn until now
                    return None, _nothing
                return key, _signs(file)
            time.sleep(0.2)
        return None, _nothing

    def _end(self, key: str) -> None:
        """Keep of a scoring training that has ended its scores; they come last, and say so."""
        folder = self.folder / key
        if not self._done(key):
            table = pq.read_table(folder / "ledger.parquet").select(["clip", "label", *MEANS])
            _write(table.rename_columns(["clip", "label", "audio", "visual"]), folder / SCORES)
        if self.storage:
            self.storage.at(key).push(folder, [SCORES])
            self.storage.at(key).delete(_ENDED)
        for name in _ENDED:
            (folder / name).unlink(missing_ok=True)

    def _read(self, file: Path, store: Store, config: TrialConfig) -> np.ndarray:
        """(2, N) float64, in the order of the trial's training clips."""
        try:
            table = pq.read_table(file)
            scores = np.stack([table[name].to_numpy().astype(np.float64) for name in ("audio", "visual")])
            clips = table["clip"].to_pylist()
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); delete it to score anew") from None
        if clips != [store.clip_ids[row] for row in training_rows(config, store)]:
            raise UserError(f"{file}: holds other clips than this training's; delete it to score anew")
        return scores

    def _show(self, file: Path, key: str, history: np.ndarray) -> None:
        if file.exists():
            return
        table = pq.read_table(self.folder / key / SCORES).select(["clip", "label"])
        for name, scores in zip(("audio", "visual"), history, strict=True):
            table = table.append_column(name, pa.array(scores))
        with suppress(OSError):  # nothing is read from it
            _write(table.append_column("gap", pa.array(history[0] - history[1])), file)


def _write(table: pa.Table, file: Path) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    pq.write_table(table, partial)
    partial.replace(file)


def _signs(file: IO[str]) -> Callable[[Told], None]:
    """To be called now and then: a sign of life on the lock, so that others wait, but not for a process that hangs."""
    signed = -SIGN_EVERY

    def sign(told: Told) -> None:
        nonlocal signed
        if time.monotonic() - signed > SIGN_EVERY:
            signed = time.monotonic()
            with suppress(OSError):
                os.utime(file.fileno())

    return sign


def _both(one: Callable[[Told], None], other: Callable[[Told], None] | None) -> Callable[[Told], None]:
    def tell(told: Told) -> None:
        one(told)
        if other:
            other(told)

    return tell


def _nothing(told: Told) -> None:
    pass


def _log() -> logging.Logger:
    return logging.getLogger("raygap")
