"""Histories of a training set: scores from whole plain trainings, done once and shared by all trials.

Beside the shared warm-ups, or the run folder, lies a folder with

<key>/           a scoring training: its checkpoint until it has ended, then scores.parquet, one row a training clip
<key>.parquet    a history: the mean of several of them, by clip, to look at: the lowest scores are the worst clips;
                 or of a sweep's first plain trials, in which case it is read (history.pool)

A scoring training goes on where a killed one stopped, whoever comes next. Trials that want the same ones at once share
them out; those on machines that share no folder do not know of each other, and may both train them, with one result.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
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
from raygap.schema import field_paths, from_mapping, shapes_warmup, to_mapping
from raygap.storage import Storage
from raygap.training.checkpoint import write_whole
from raygap.training.trainer import Metrics, training_rows
from raygap.training.trunk import SIGN_EVERY, WORD_EVERY, SharedWarmups, Silence, warmup_key
from raygap.workers import Workers

FOLDER = ".histories"
SCORES = "scores.parquet"
SCORING = "unimodal_losses"
_ENDED = ("checkpoint.pt", "best.pt", "ledger.parquet")
"""What a scoring training leaves that nobody needs."""
MARK = ".scoring"
"""In the folder of a run that trains for its history: a name for the run, which the scores that it has ended bear."""
ABOVE = 5
"""Folders in which a pooled history is looked for: of a run, and above it up to those of a sweep, and beside it."""

_ANEW = "copy it anew from the folder of the sweep that pooled it, or give --set history.pool="
_BY = "by"
"""Beside the scores, in their file: the mark of the run that has ended the training."""

Train = Callable[[TrialConfig, Path, Storage | None, Callable[[Told], None]], Iterator[Metrics]]
"""Trains a configuration in a folder, or goes on with it: run.train, which also asks for histories."""


def wants_history(config: TrialConfig, method: type[Method]) -> bool:
    """Whether the trial fits a mixture, and fits it to a history."""
    return config.gap.source == "history" and (method.guided or config.purify.epochs > 0)


def scoring_trainings(config: TrialConfig) -> int:
    """How many whole trainings come before the trial's own, if nobody has done them."""
    wanted = wants_history(config, find_method(config.method)) and not config.history.pool
    return config.history.runs if wanted else 0


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


def pool_key(members: Sequence[TrialConfig], store_key: str) -> str:
    """That of the history pooled from these plain trainings, in order."""
    made = [[scoring_key(config, store_key), to_mapping(config)] for config in members]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:24]


def write_pool(ledgers: Sequence[Path], file: Path) -> None:
    """Write the history that is the mean over whole plain trainings' ledgers, by clip."""
    tables = [pq.read_table(ledger, columns=["clip", "label", *MEANS]) for ledger in ledgers]
    scores = [[table[name].to_numpy().astype(np.float64) for name in MEANS] for table in tables]
    file.parent.mkdir(parents=True, exist_ok=True)
    _write_history(tables[0].select(["clip", "label"]), np.mean(scores, axis=0).astype(np.float32), file)


def find_pool(key: str, run: Path, kept: Storage | None = None) -> Path | None:
    """The file of a pooled history for a run, from the folders of histories in its folder and above; None if there is
    none. Of a run that is kept in a storage from there.
    """
    name, place = f"{key}.parquet", run.resolve()
    for up in range(ABOVE):
        folder = place / FOLDER
        if kept:
            there = kept.at(*[".."] * up, FOLDER)
            folder = there.scratch()
            if not (folder / name).exists():
                there.pull(folder, [name])
        if (folder / name).exists():
            return folder / name
        place = place.parent
    return None


def bring_pool(config: TrialConfig, store: Store, run: Path, beside: Path | None) -> None:
    """Bring the pooled history that a configuration names to a run, from near the file `beside`, where it is not there.

    Raises UserError if it is nowhere, or is of other clips.
    """
    key = config.history.pool
    if not key or not wants_history(config, find_method(config.method)):
        return
    found = find_pool(key, run)
    file = found or (find_pool(key, beside.parent) if beside else None)
    if file is None:
        raise pool_missing(key, beside.parent if beside else run)
    _read(file, store, config, _ANEW)
    if not found:
        (run / FOLDER).mkdir(parents=True, exist_ok=True)
        write_whole(run / FOLDER / file.name, file.read_bytes())


def pool_missing(key: str, where: Path) -> UserError:
    """One line on a pooled history that is not there."""
    return UserError(
        f"history.pool = {key}: no {FOLDER}/{key}.parquet in {where} or above; copy it from the folder of the sweep "
        "that pooled it, or give --set history.pool= for scoring trainings of its own"
    )


@dataclass
class Histories:
    """The folder of histories of a run; with `storage` machines that share no folder find each other's there."""

    folder: Path
    run: Path
    storage: Storage | None = None
    kept: Storage | None = None
    """The run's own."""

    @classmethod
    def beside(cls, shared: SharedWarmups | None, run: Path, kept: Storage | None) -> "Histories":
        """Beside the shared warm-ups, or where none are kept beside the run folder, whose storage is `kept`."""
        storage = shared.storage if shared else kept
        if storage := storage and storage.at("..", FOLDER):
            return cls(storage.scratch(), run, storage, kept)
        return cls((shared.folder if shared else run).with_name(FOLDER), run, None, kept)

    def of(
        self, config: TrialConfig, store: Store, workers: Workers, train: Train, tell: Callable[[Told], None] | None
    ) -> tuple[np.ndarray, int]:
        """The history of a trial, (2, N) float32, audio and visual, and the epochs of the scoring trainings that this
        run has brought to their end for it, in all its tries.

        All workers of the trial call it together. Raises UserError if a file there holds other clips, or a pooled
        history is not there.
        """
        if config.history.pool:
            return workers.broadcast(self._pooled(config, store) if workers.first else None), 0
        runs = [scoring_config(config, run) for run in range(config.history.runs)]
        keys = [scoring_key(run, store.header["key"]) for run in runs]
        silence = {key: Silence() for key in keys}
        while missing := workers.broadcast(self._missing(keys) if workers.first else None):
            with self._turn(missing, silence, workers) as (key, told):
                if key is None:  # others are at work on all of them
                    continue
                storage = self.storage and self.storage.at(key)
                if workers.first:
                    patiently(self._mark)  # now: who ends a training must be known after a kill, too
                    if storage:
                        patiently(partial(storage.pull_all, self.folder / key))
                for _ in train(runs[keys.index(key)], self.folder / key, storage, _both(told, tell)):
                    pass
                if workers.first:
                    patiently(partial(self._end, key))
        found = None
        if workers.first:
            files = [self.folder / key / SCORES for key in keys]
            history = np.mean([_read(file, store, config) for file in files], axis=0).astype(np.float32)
            self._show(self.folder / f"{history_key(config, store.header['key'])}.parquet", keys[0], history)
            own = (self.run / MARK).exists() and self._mark()
            found = history, config.epochs * sum(bool(own) and _ended_by(file) == own for file in files)
        return workers.broadcast(found)

    def _pooled(self, config: TrialConfig, store: Store) -> np.ndarray:
        key = config.history.pool or ""
        file = patiently(partial(find_pool, key, self.run, self.kept))
        if file is None:
            raise pool_missing(key, self.run)
        return _read(file, store, config, _ANEW).astype(np.float32)

    def _mark(self) -> str:
        if not (self.run / MARK).exists():
            write_whole(self.run / MARK, uuid.uuid4().hex.encode())
            if self.kept:
                self.kept.push(self.run, [MARK])
        return (self.run / MARK).read_text(encoding="utf-8")

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
            table = table.rename_columns(["clip", "label", "audio", "visual"])
            _write(table.replace_schema_metadata({_BY: self._mark()}), folder / SCORES)
        if self.storage:
            self.storage.at(key).push(folder, [SCORES])
            self.storage.at(key).delete(_ENDED)
        for name in _ENDED:
            (folder / name).unlink(missing_ok=True)

    def _show(self, file: Path, key: str, history: np.ndarray) -> None:
        if file.exists():
            return
        with suppress(OSError):  # nothing is read from it
            _write_history(pq.read_table(self.folder / key / SCORES, columns=["clip", "label"]), history, file)


def _write_history(clips: pa.Table, history: np.ndarray, file: Path) -> None:
    """`clips` has their ids and labels, `history` is (2, N)."""
    table = clips.replace_schema_metadata()
    for name, scores in zip(("audio", "visual"), history, strict=True):
        table = table.append_column(name, pa.array(scores))
    _write(table.append_column("gap", pa.array(history[0] - history[1])), file)


def _read(file: Path, store: Store, config: TrialConfig, mend: str = "delete it to score anew") -> np.ndarray:
    """(2, N) float64, in the order of the trial's training clips."""
    try:
        table = pq.read_table(file)
        scores = np.stack([table[name].to_numpy().astype(np.float64) for name in ("audio", "visual")])
        places = {clip: place for place, clip in enumerate(table["clip"].to_pylist())}
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); {mend}") from None
    clips = [store.clip_ids[row] for row in training_rows(config, store)]
    if any(clip not in places for clip in clips):
        raise UserError(f"{file}: holds other clips than this training's; {mend}")
    return scores[:, [places[clip] for clip in clips]]  # of a pooled history some may be left out by now


def _ended_by(file: Path) -> str:
    """The mark of the run that has ended the scoring training; empty if it bears none, as those of older versions."""
    return (pq.read_schema(file).metadata or {}).get(_BY.encode(), b"").decode()


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
