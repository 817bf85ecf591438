import fcntl
import importlib
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
import torch
from children import start
from stores import SMALL, write_store

from raygap.config import flatten
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.methods.base import Method
from raygap.schema import field_paths, from_mapping, shapes_warmup
from raygap.training import trunk
from raygap.training.run import train
from raygap.training.trainer import Trainer
from raygap.training.trunk import SharedWarmups, Trunk, warmup_key
from raygap.workers import Workers

BASE = SMALL | {"epochs": 7, "warmup.epochs": 3}


def run(store: Store, folder: Path, shared: Path | None, limit: float = 1e9, **fields: Any) -> list[dict[str, Any]]:
    config = from_mapping(BASE | {k.replace("__", "."): v for k, v in fields.items()})
    return list(train(config, store, folder, trunk=SharedWarmups(shared, limit) if shared else None))


def assert_same_but_for_reuse(one: Path, other: Path) -> None:
    tables = [pq.read_table(folder / "metrics.parquet").drop(["epochs_reused"]) for folder in (one, other)]
    assert tables[0].equals(tables[1])
    assert pq.read_table(one / "ledger.parquet").equals(pq.read_table(other / "ledger.parquet"))
    a, b = (torch.load(f / "checkpoint.pt", weights_only=True)["trainer"] for f in (one, other))
    for part in ("network", "optimizer"):
        assert str(a[part]) == str(b[part])
    assert all(torch.equal(a["network"][name], b["network"][name]) for name in a["network"])


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [("gmm_scores", 3, 3), ("gmm_scores", 2, 4), ("gmm_scores", 4, 2), ("gmm_adaptive", 2, 4), ("joint", 4, 2)],
)
def test_a_forked_trial_equals_a_cold_one(
    method: str, first: int, second: int, small_store: Store, tmp_path: Path
) -> None:
    run(small_store, tmp_path / "first", tmp_path / "trunk", method=method, warmup__epochs=first, mixture__n_init=2)
    forked = run(small_store, tmp_path / "forked", tmp_path / "trunk", method=method, warmup__epochs=second)
    run(small_store, tmp_path / "cold", None, method=method, warmup__epochs=second)
    assert forked[-1]["epochs_reused"] == min(first, second)
    assert [row["epoch"] for row in forked] == list(range(1, 8))
    assert_same_but_for_reuse(tmp_path / "cold", tmp_path / "forked")


def other_value(path: str, value: Any) -> Any:
    kind = field_paths()[path].annotation
    if path.startswith("model.") and path.endswith(("encoder", "weights", "frozen_until", "width")):
        # a name among those that raygap has, or of one's own; none of a width is that of both
        return {"encoder": "resnet18", "width": 8}.get(path.rpartition(".")[2], "other")
    if path == "history.pool":  # a key, or none
        return 24 * "0"
    if get_args(kind):
        return next(choice for choice in get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 0.5 or 0.5


def key_of(fields: dict[str, Any]) -> str:
    config = from_mapping(BASE | fields)
    return warmup_key(config, "store", find_method(config.method))


def other_values(method: str) -> dict[str, Any]:
    """Another value for each of a method's fields."""
    fields = flatten(from_mapping(BASE | {"method": method}).model_dump())
    return {
        path: other_value(path, value) for path, value in fields.items() if path not in ("schema_version", "method")
    }


def test_a_field_makes_another_warmup_unless_it_is_marked_as_later() -> None:
    seen = {"epochs"}  # below
    for method in METHODS:
        others = {path: value for path, value in other_values(method).items() if path not in seen}
        plain = key_of({"method": method})
        for path, value in others.items():
            assert (key_of({"method": method, path: value}) != plain) is shapes_warmup(path, method), (method, path)
        seen |= set(others)
    assert seen == set(field_paths()) - {"schema_version", "method"}


def test_fields_that_are_marked_as_later_change_nothing_before_the_fork(tmp_path: Path) -> None:
    """A method's all at once: what is marked wrongly shows, whichever it is."""
    store = write_store(tmp_path / "store", clips=24)

    def warm_up(fields: dict[str, Any]) -> tuple[str, str, str]:
        """Metrics, network and ledger after two epochs of a step each."""
        trainer = Trainer(from_mapping(BASE | fields), store)
        rows = [trainer.train_epoch() for _ in range(2)]
        return str(rows), str(trainer.network.state_dict()), str(trainer.ledger.state_dict())

    def taken(fields: dict[str, Any]) -> bool:
        try:
            config = from_mapping(BASE | fields)
            find_method(config.method).check(config)
        except UserError:
            return False
        return True

    kinds = [{"method": method, **plain} for method in METHODS for plain in ({}, {"purify.epochs": 0})]
    kinds = [kind for kind in kinds if taken(kind)]  # some methods take no warm-up
    tried = set()
    for kind in [*kinds, {"optimizer.schedule": "step", "optimizer.step_size": 1}]:
        method = from_mapping(kind).method
        changed = {}
        for path, value in other_values(method).items():
            # How long a trial is matters to no rate but cosine's.
            later = path == "epochs" or not shapes_warmup(path, method)
            if later and path not in kind and taken(kind | changed | {path: value}):
                changed[path] = value
        plain = warm_up(kind)
        assert warm_up(kind | changed) == plain, [p for p in changed if warm_up(kind | {p: changed[p]}) != plain]
        tried |= set(changed)
    later = {path for kind in kinds for path in field_paths(kind["method"]) if not shapes_warmup(path, kind["method"])}
    assert tried == {"epochs", *later}


def test_how_long_a_trial_is_matters_to_a_schedule_that_looks_at_it() -> None:
    for schedule, same in (("constant", True), ("step", True), ("cosine", False)):
        fields = {"optimizer.schedule": schedule}
        assert (key_of(fields | {"epochs": 50}) == key_of(fields | {"epochs": 100})) is same


def test_methods_with_the_same_warmup_loss_share_it() -> None:
    keys = {name: warmup_key(from_mapping({"method": name}), "store", method) for name, method in METHODS.items()}
    assert keys["gmm_scores"] == keys["gmm_adaptive"] == keys["unimodal_losses"]
    assert keys["joint"] != keys["gmm_scores"]
    assert warmup_key(from_mapping({}), "other store", METHODS["gmm_scores"]) != keys["gmm_scores"]


@pytest.fixture
def key_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The key of a configuration as another process finds it, whose raygap is the copy in tmp_path."""
    shutil.copytree(trunk.PACKAGE, tmp_path / "raygap", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(trunk, "PACKAGE", tmp_path / "raygap")

    def forget() -> None:
        trunk._sources.cache_clear()
        trunk._digest.cache_clear()

    def key(method: type[Method] = METHODS["gmm_scores"]) -> str:
        forget()
        return warmup_key(from_mapping({}), "store", method)

    yield key
    forget()


def test_other_code_is_another_warmup(key_anew: Callable[..., str], tmp_path: Path) -> None:
    keys = [key_anew()]
    for file in ("methods/base.py", "models/encoders.py", "data/augment.py", "training/trainer.py", "config.py"):
        with (tmp_path / "raygap" / file).open("a") as source:
            source.write("# edited\n")
        keys.append(key_anew())
    (tmp_path / "raygap" / "models" / "new.py").touch()
    keys.append(key_anew())
    assert len(set(keys)) == 7
    with (tmp_path / "raygap" / "search" / "job.py").open("a") as source:  # a warm-up knows nothing of it
        source.write("# edited\n")
    assert key_anew() == keys[-1]


def test_the_code_of_a_method_from_elsewhere_counts_too(
    key_anew: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elsewhere.py"
    file.write_text("from raygap.methods.joint import Joint\nclass Mine(Joint):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("elsewhere").Mine
    keys = [key_anew(METHODS["joint"]), key_anew(mine)]
    file.write_text(file.read_text() + "# edited\n")
    assert len({*keys, key_anew(mine)}) == 3
    assert key_anew(METHODS["joint"]) == keys[0]
    file.unlink()  # as of a class that was typed into a session
    key_anew(mine)


def test_another_device_or_torch_is_another_warmup(
    key_anew: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key_anew()]
    monkeypatch.setattr(trunk, "pick_device", lambda: torch.device("meta"))
    keys.append(key_anew())
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert len({*keys, key_anew()}) == 3


def test_a_damaged_epoch_is_trained_again(small_store: Store, tmp_path: Path) -> None:
    cold = run(small_store, tmp_path / "cold", tmp_path / "trunk")
    [newest] = tmp_path.glob("trunk/*/0003.pt")
    whole = newest.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    for number, damaged in enumerate((b"", whole[:-9], flipped)):
        newest.write_bytes(damaged)
        rows = run(small_store, tmp_path / str(number), tmp_path / "trunk")
        assert rows[-1]["epochs_reused"] == 2
        assert rows[-1]["val_loss"] == cold[-1]["val_loss"]


def test_the_size_limit_removes_what_was_used_longest_ago(small_store: Store, tmp_path: Path) -> None:
    run(small_store, tmp_path / "a", tmp_path / "trunk", seed=1)
    one = sum(file.stat().st_size for file in tmp_path.glob("trunk/*/*.pt"))
    run(small_store, tmp_path / "b", tmp_path / "trunk", seed=2)
    run(small_store, tmp_path / "c", tmp_path / "trunk", seed=1)  # used again
    run(small_store, tmp_path / "d", tmp_path / "trunk", limit=2.1 * one, seed=3)
    assert sum(file.stat().st_size for file in tmp_path.glob("trunk/*/*.pt")) <= 2.1 * one
    assert run(small_store, tmp_path / "e", tmp_path / "trunk", seed=1)[-1]["epochs_reused"] == 3


def test_what_a_killed_writer_left_is_removed(small_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "trunk" / "key of old"
    folder.mkdir(parents=True)
    left, current = folder / ".0003.pt.4711", folder / ".0004.pt.4712"
    for file in (left, current):
        file.write_bytes(b"half an epoch")
    os.utime(left, (0, time.time() - 2 * trunk.LEFT_OVER))
    run(small_store, tmp_path / "run", tmp_path / "trunk")
    assert list(folder.iterdir()) == [current]


LONG = {"epochs": 20, "warmup.epochs": 15}


def train_when_told(turn: Connection, store: Path, folder: Path, shared: Path) -> None:
    """Tells how many epochs it did not train itself."""
    turn.send("ready")
    turn.recv()
    turn.send(run(Store.open(store), folder, shared, **LONG)[-1]["epochs_reused"])


def test_two_trials_at_once_train_each_epoch_once_and_a_kill_does_no_harm(small_store: Store, tmp_path: Path) -> None:
    names = ("killed", "a", "b")
    trials = [start(train_when_told, small_store.path, tmp_path / name, tmp_path / "trunk") for name in names]
    for _, turn in trials:
        turn.recv()
    for _, turn in trials:
        turn.send("go")
    while not list(tmp_path.glob("trunk/*/0003.pt")):
        time.sleep(0.01)
    trials[0][0].kill()
    reused = [turn.recv() for _, turn in trials[1:]]
    for trial, _ in trials:
        trial.join()
    # Each of the 15 epochs was trained once, by one of the three (the killed one's last may have been lost).
    assert 15 <= sum(reused) <= 30
    assert len(list(tmp_path.glob("trunk/*/*.pt"))) == 15
    run(small_store, tmp_path / "cold", None, **LONG)
    assert_same_but_for_reuse(tmp_path / "cold", tmp_path / "a")
    assert_same_but_for_reuse(tmp_path / "cold", tmp_path / "b")


def test_a_full_disk_costs_the_trunk_not_the_trial(
    small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raygap.training.trunk.write_whole", full)
    assert len(run(small_store, tmp_path / "run", tmp_path / "trunk")) == 7


def test_a_trunk_that_cannot_be_used_at_all_costs_it_neither(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "trunk").touch()  # no folder: nothing below can be locked, read or written
    run(small_store, tmp_path / "run", tmp_path / "trunk")
    run(small_store, tmp_path / "cold", None)
    assert_same_but_for_reuse(tmp_path / "cold", tmp_path / "run")


def test_who_is_silent_too_long_is_not_waited_for(
    small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = run(small_store, tmp_path / "first", tmp_path / "trunk")
    monkeypatch.setattr("raygap.training.trunk.SILENCE", 0.2)
    lock = next((tmp_path / "trunk").glob("*/.lock"))
    with lock.open() as file:  # of a process that is stopped
        fcntl.flock(file, fcntl.LOCK_EX)
        again = run(small_store, tmp_path / "second", tmp_path / "trunk")
    assert [row["val_loss"] for row in again] == [row["val_loss"] for row in rows]
    assert "without a sign of life" in caplog.text


def test_who_is_slow_but_alive_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("raygap.training.trunk.SILENCE", 0.4)
    monkeypatch.setattr("raygap.training.trunk.SIGN_EVERY", 0.0)
    monkeypatch.setattr("raygap.training.trunk.WORD_EVERY", 0.1)
    slow, next_one = (Trunk(SharedWarmups(tmp_path, 1e9), "key") for _ in range(2))
    taken, done = threading.Event(), []

    def train() -> None:
        with slow._turn(Workers()):
            taken.set()
            for _ in range(30):
                time.sleep(0.05)
                slow._sign_of_life()
            done.append("epoch")

    thread = threading.Thread(target=train)
    thread.start()
    taken.wait()
    with next_one._turn(Workers()):
        assert done
    thread.join()
    assert not caplog.text


def test_training_shows_signs_of_life(small_store: Store, tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    lock = tmp_path / "key" / ".lock"
    lock.touch()
    warmup = Trunk(SharedWarmups(tmp_path, 1e9), "key")
    trainer = Trainer(from_mapping(BASE), small_store)
    for reused in (False, True):
        os.utime(lock, (0, 0))
        warmup.advance(Trainer(from_mapping(BASE), small_store) if reused else trainer, [])
        assert (lock.stat().st_mtime == 0) is reused
    os.utime(lock, (0, 0))
    trainer.train_epoch()  # it has no turn any more
    assert lock.stat().st_mtime == 0


def test_a_process_that_was_forked_meanwhile_does_not_keep_the_turn(tmp_path: Path) -> None:
    turns = Trunk(SharedWarmups(tmp_path, 1e9), "key")
    with turns._turn(Workers()):
        loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        loader.start()
    with (tmp_path / "key" / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    loader.kill()
    loader.join()
