"""The warm-up trunk: warm-ups that agree on everything that shapes them are trained once, by whoever comes first.

A folder a warm-up, named by its key; in it a file an epoch, with all that the next epoch depends on. A trial takes the
longest prefix that it can use and adds what it has to train beyond. Trials that need the same epoch at once take turns;
those on machines that share no folder do not know of each other, and may both train it.

Why trials share no more than that, as in a tree of stages: see docs/sweep.md.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import torch

from raygap.config import MODALITIES, TIMM, Model, TrialConfig, flatten
from raygap.locks import lock
from raygap.methods.base import Method
from raygap.plugins import is_plugin, own_code
from raygap.schema import field_paths, shapes_warmup
from raygap.storage import Storage
from raygap.training.checkpoint import dumps, loads, write_whole
from raygap.training.precision import pick_device
from raygap.training.stages import learning_rate
from raygap.training.trainer import Metrics, Trainer
from raygap.workers import Workers

FOLDER = ".trunk"
"""Beside the run folders, or in one."""
LONGEST = 1000
"""Epochs that a warm-up has at most."""
PACKAGE = Path(__file__).parents[1]
ABOVE = ("cluster/", "commands/", "provenance.py", "search/", "tracking/")
"""Parts of raygap that training imports nothing from; all others may shape a warm-up."""
DIGEST_BYTES = 32
LEFT_OVER = 3600.0
"""Seconds after which nobody writes on at a file that has not got its name yet; it takes seconds."""
SILENCE = 1200.0
"""Seconds without a sign of life after which who has the turn is not waited for any longer: it may be stopped."""
SIGN_EVERY = 10.0
WORD_EVERY = 60.0
"""Seconds; workers that train together wait half an hour for a word of the first of them, no longer."""


def warmup_key(config: TrialConfig, store_key: str, method: type[Method]) -> str:
    """The same for two trials only if nothing that shapes the warm-up differs between them: settings, data, code,
    kind of device and version of torch.
    """
    # Of the method, and of how many epochs the trial has, only what follows from them counts. What is as it is by
    # default is left out: so methods share a warm-up of which only one has the field. The code's digest holds defaults.
    known = field_paths(config.method)
    fields = {
        path: value
        for path, value in flatten(config.model_dump()).items()
        if shapes_warmup(path, config.method) and path not in ("method", "epochs") and value != known[path].default
    }
    rates = [learning_rate(config.optimizer, config.epochs, epoch) for epoch in range(LONGEST)]
    # What the warm-up and its validation see of the method (see Method).
    seen = [(hook.__module__, hook.__qualname__) for hook in (method.plain_terms, method.extend, method.predict)]
    loss = [*seen, method.probe_heads]
    # A hook's name says nothing of what it does today, nor of what it calls.
    code = [_sources(), *sorted(_digest(file) for file in _own_files(method, config.model))]
    machine = [pick_device().type, torch.__version__]
    content = json.dumps([code, machine, store_key, loss, rates, fields], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:24]


@cache
def _sources() -> str:
    """A digest of raygap's code below the search; once a process, which runs the code that it has loaded."""
    files = {file.relative_to(PACKAGE).as_posix(): file for file in PACKAGE.rglob("*.py")}
    content = [(name, _digest(file)) for name, file in sorted(files.items()) if not name.startswith(ABOVE)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _own_files(method: type[Method], model: Model) -> set[Path]:
    """What a warm-up may depend on from outside raygap: code of the method and of the encoders, and files of weights.

    Of a URL, as of weights by a library's name, the name says enough.
    """
    modules = {kind.__module__ for kind in method.__mro__} - {"builtins"}
    encoders = {model.of(modality).encoder for modality in MODALITIES}
    modules |= {name.partition(":")[0] for name in encoders if is_plugin(name) and not name.startswith(TIMM)}
    weights = {Path(getattr(model, modality).weights) for modality in MODALITIES}
    code = {file for name in modules if not name.startswith("raygap.") for file in own_code(name).values()}
    return code | {file for file in weights if file.is_file()}


@cache
def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@dataclass(frozen=True)
class SharedWarmups:
    """A folder in which trials share their warm-ups, up to `limit` bytes of them together.

    With `storage` machines that share no folder find each other's there, and `folder` is only this machine's part.
    """

    folder: Path
    limit: float
    storage: Storage | None = None


class Trunk:
    """The saved epochs of one warm-up, in the shared folder's <key>."""

    def __init__(self, shared: SharedWarmups, key: str) -> None:
        self.shared, self.key = shared, key
        self.root = shared.storage.scratch() if shared.storage else shared.folder
        self.folder = self.root / key
        self.lock: IO[str] | None = None  # while this process has the turn
        self.signed = -math.inf

    def advance(self, trainer: Trainer, history: list[Metrics]) -> list[Metrics]:
        """Bring a trainer that is warming up forward, by saved epochs or by training one; returns their metrics.

        `history` holds the metrics of the epochs before. Each row tells in epochs_reused how many epochs of this run,
        up to it, were not trained.
        """
        workers = trainer.workers
        with self._turn(workers):
            reused = history[-1]["epochs_reused"] if history else 0
            if self.shared.storage and workers.first:
                self._fetch(trainer)
            if saved := workers.broadcast(self._longest(trainer) if workers.first else None):
                rows = saved["history"][trainer.epoch :]
                trainer.load_state_dict(saved["trainer"])
                return [row | {"epochs_reused": reused + 1 + i} for i, row in enumerate(rows)]
            trainer.on_step = self._sign_of_life
            metrics = trainer.train_epoch() | {"epochs_reused": reused}
            if workers.first:
                self._write(trainer.epoch, {"trainer": trainer.state_dict(), "history": [*history, metrics]})
            return [metrics]

    @contextmanager
    def _turn(self, workers: Workers) -> Iterator[None]:
        """One process takes the turn, and later the files, for all that train this trial."""
        with ExitStack() as turn:
            waiting = self._wait(turn)
            while workers.broadcast(next(waiting, False) if workers.first else None):
                continue
            yield

    def _wait(self, turn: ExitStack) -> Iterator[bool]:
        """Take the turn; gives True from time to time as long as another has it, and shows signs of life."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Not "w", which would change its time as a sign of life does. A killed process lets go of the lock.
            file = turn.enter_context((self.folder / ".lock").open("a"))
            if not (yield from _take_turn(file)):
                return
        except OSError as error:  # two trials may then train the same epoch, nothing worse
            _log().warning("no turn at the warm-up: %s", error)
            return
        self.lock = file
        turn.callback(self._let_go)

    def _let_go(self) -> None:
        # Closing it is not enough: a process that was forked meanwhile, to load clips, holds it open.
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        self.lock = None

    def _sign_of_life(self) -> None:
        """After each step, so that others wait for a slow epoch, but not for a process that hangs."""
        if self.lock and time.monotonic() - self.signed > SIGN_EVERY:
            self.signed = time.monotonic()
            with suppress(OSError):
                os.utime(self.lock.fileno())

    def _fetch(self, trainer: Trainer) -> None:
        """From the storage: the longest prefix that takes the trainer forward, if this machine has none as long."""
        try:
            there = self.shared.storage.at(self.key).files()
            for epoch in range(trainer.config.warmup.epochs, trainer.epoch, -1):
                if self._file(epoch).exists():
                    return
                if self._file(epoch).name in there:
                    self.shared.storage.at(self.key).pull(self.folder, [self._file(epoch).name])
                    return
        except OSError as error:  # the epoch is trained again, nothing worse
            _log().warning("shared warm-ups cannot be read: %s", error)

    def _longest(self, trainer: Trainer) -> dict[str, Any] | None:
        """The longest saved prefix that takes the trainer forward."""
        epochs = range(trainer.config.warmup.epochs, trainer.epoch, -1)
        return next((saved for epoch in epochs if (saved := self._read(epoch, trainer))), None)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch:04d}.pt"

    def _read(self, epoch: int, trainer: Trainer) -> dict[str, Any] | None:
        """None if the epoch is not there, or is damaged, in which case it is removed and will be trained again."""
        file = self._file(epoch)
        try:
            content = file.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
            _remove(file)
            return None
        with suppress(OSError):
            file.touch()  # what was used last is removed last
        return loads(content[DIGEST_BYTES:], trainer.device)

    def _write(self, epoch: int, state: dict[str, Any]) -> None:
        content = dumps(state)
        try:
            write_whole(self._file(epoch), hashlib.sha256(content).digest() + content)
            if self.shared.storage:
                self.shared.storage.at(self.key).push(self.folder, [self._file(epoch).name])
                self._prune_storage()
        except OSError as error:  # the next trial trains the epoch again, nothing worse
            _log().warning("warm-up epoch not kept: %s", error)
        self._prune()

    def _prune_storage(self) -> None:
        # What was used last is not known there: the oldest go first.
        there = sorted(self.shared.storage.files().items(), key=lambda item: item[1].mtime_ns)
        excess = sum(info.size for _, info in there) - self.shared.limit
        for name, info in there:
            if excess <= 0:
                break
            self.shared.storage.delete([name])
            excess -= info.size

    def _prune(self) -> None:
        for leftover in self.root.glob("*/.*.pt.*"):  # of a writer that was killed, or is at it just now
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > LEFT_OVER:
                    leftover.unlink()
        files = []
        for file in self.root.glob("*/*.pt"):
            try:
                files.append((file.stat().st_mtime, file.stat().st_size, file))
            except OSError:  # another trial has just removed it
                continue
        excess = sum(size for _, size, _ in files) - self.shared.limit
        for _, size, file in sorted(files):
            if excess <= 0:
                break
            _remove(file)
            excess -= size


class Silence:
    """How long who holds a lock has shown no sign of life on its file, by this machine's own clock: another's may be
    wrong.
    """

    def __init__(self) -> None:
        self.heard = math.inf
        self.sign: int | None = None

    def lasts(self, file: IO[str]) -> bool:
        """Whether it is to be waited for no longer; to be asked again and again."""
        now, last = time.monotonic(), os.fstat(file.fileno()).st_mtime_ns
        if last != self.sign:
            self.heard, self.sign = now, last
        return now - self.heard > SILENCE


def _take_turn(file: IO[str]) -> Generator[bool, None, bool]:
    """Gives True every WORD_EVERY seconds until it has the lock, and returns whether there are locks here.

    Raises TimeoutError, which is an OSError.
    """
    said, silence = time.monotonic(), Silence()
    while True:
        try:
            return lock(file)
        except BlockingIOError:
            now = time.monotonic()
        if silence.lasts(file):
            raise TimeoutError(f"{file.name} is held without a sign of life for {SILENCE:.0f} s")
        if now - said > WORD_EVERY:
            said = now
            yield True
        time.sleep(0.05)


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _log() -> logging.Logger:
    return logging.getLogger("raygap")
