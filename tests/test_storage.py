"""Runs that are kept in an object store: a real S3 server on this machine, and machines that share nothing else."""

import logging
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from stores import SMALL

from raygap.config import load_yaml
from raygap.data.local_store import keep_store, local_store
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.search.job import Outcome, run_sweep
from raygap.search.kept import check_storage, drop_unknown_trials, fetch_run
from raygap.search.plan import read_plan, write_plan
from raygap.search.trial import _at_work, train_seed, train_trial
from raygap.storage import Storage, machine_folder, split_storage
from raygap.tracking.run_folder import ENSEMBLE, best_trials
from raygap.training.histories import bring_pool
from raygap.training.run import train
from raygap.training.trainer import Trainer
from raygap.training.trunk import SharedWarmups

CONFIG = from_mapping(SMALL)


def new_machine() -> None:
    """Nothing of raygap's is left in the folder for temporary files."""
    shutil.rmtree(machine_folder(), ignore_errors=True)


def assert_equal(one: Path, other: Path) -> None:
    for table in ("metrics", "ledger"):
        rows = [pq.read_table(folder / f"{table}.parquet") for folder in (one, other)]
        assert (
            rows[0]
            .drop_columns([c for c in rows[0].column_names if c == "epochs_reused"])
            .equals(rows[1].drop_columns([c for c in rows[1].column_names if c == "epochs_reused"]))
        )


def test_a_file_comes_back_as_it_went(storage: Storage, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "a").write_bytes(bytes(range(256)) * 50_000)  # more than one part of an upload
    (here / "sub" / "b").touch()
    storage.push(here, ["a", "sub/b"])
    assert {name: info.size for name, info in storage.files().items()} == {"a": 12_800_000, "sub/b": 0}
    storage.pull(tmp_path / "there", ["a", "sub/b", "c"])
    assert (tmp_path / "there" / "a").read_bytes() == (here / "a").read_bytes()
    assert sorted(p.name for p in (tmp_path / "there").rglob("*")) == ["a", "b", "sub"]
    storage.delete(["a", "c"])
    assert list(storage.files()) == ["sub/b"]
    assert list(storage.at("sub").files()) == ["b"]
    assert storage.at("sub", "..").files().keys() == storage.files().keys()


def test_training_goes_on_at_another_machine(
    storage: Storage, small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(train_trial(CONFIG, small_store, tmp_path / "whole", None))
    rows = train_trial(CONFIG, small_store, tmp_path / "unused", None, storage)
    list(islice(rows, 3))
    rows.close()
    assert not storage.scratch().exists()
    new_machine()
    trained = []
    plain = Trainer.train_epoch
    monkeypatch.setattr(Trainer, "train_epoch", lambda self: trained.append(self.epoch) or plain(self))
    assert list(train_trial(CONFIG, small_store, tmp_path / "unused", None, storage)) == whole
    assert trained == [3, 4, 5], "it went on, and did not begin again"
    assert not (tmp_path / "unused").exists()
    storage.pull_all(tmp_path / "kept")
    assert_equal(tmp_path / "kept", tmp_path / "whole")
    assert {"best.pt", "config.yaml"} <= storage.files().keys()


def test_a_seed_is_tested_once(storage: Storage, small_store: Store, tmp_path: Path) -> None:
    *_, first = train_seed(CONFIG, small_store, tmp_path / "unused", storage)
    assert "checkpoint.pt" not in storage.files()
    new_machine()
    assert list(train_seed(CONFIG, small_store, tmp_path / "unused", storage)) == [first]


def test_machines_share_warmups(
    storage: Storage, small_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str, limit: float = 1e9, **fields: int) -> int:
        config = from_mapping(SMALL | {"epochs": 6, "warmup.epochs": 3} | fields)
        warmups = SharedWarmups(tmp_path / "unused", limit, storage)
        *_, last = train(config, small_store, tmp_path / name, trunk=warmups)
        new_machine()
        return last["epochs_reused"]

    assert run("first") == 0
    assert run("second") == 3
    assert_equal(tmp_path / "first", tmp_path / "second")
    [*_, longest] = sorted(storage.files())
    key, _, name = longest.partition("/")
    (tmp_path / name).write_bytes(b"damaged")
    storage.at(key).push(tmp_path, [name])
    assert run("third") < 3
    assert_equal(tmp_path / "first", tmp_path / "third")
    assert run("fourth") == 3
    size = storage.files()[longest].size
    assert run("small", limit=2.5 * size, seed=1) == 0
    assert len(storage.files()) == 2
    assert not [record for record in caplog.records if record.name == "raygap"]


def test_a_store_is_fetched_whole_or_not_at_all(storage: Storage, small_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no whole store"):
        local_store(tmp_path / "store", storage)
    keep_store(small_store.path, storage)
    copy = local_store(tmp_path / "store", storage)
    assert Store.open(copy).header == small_store.header
    assert local_store(small_store.path, storage) == small_store.path  # a machine that has it
    new_machine()
    name = next(file.name for file in small_store.path.iterdir() if file.stat().st_size > 100)
    (tmp_path / name).write_bytes(b"damaged")
    storage.push(tmp_path, [name])
    with pytest.raises(UserError, match="differs from s3://"):
        local_store(tmp_path / "store", storage)


def test_a_sweep_is_what_its_trainings_are_alone(
    stored_sweep: tuple[Path, Outcome, Storage], small_store: Store, tmp_path: Path
) -> None:
    folder, outcome, storage = stored_sweep
    list(train(from_mapping(load_yaml(folder / "trials/0000/config.yaml")), small_store, tmp_path / "trial"))
    storage.at("trials", "0000").pull_all(tmp_path / "kept")
    assert_equal(tmp_path / "kept", tmp_path / "trial")
    [(seed, row)] = outcome.test.rows.items()
    bring_pool(outcome.config, small_store, tmp_path / "seeds", folder / "best.yaml")
    seeded = from_mapping(to_mapping(outcome.config) | {"seed": seed})
    *_, alone = train_seed(seeded, small_store, tmp_path / "seeds" / "0")
    assert row["test_accuracy"] == alone["test_accuracy"]
    there = storage.files()
    assert {"sweep.yaml", "study.journal", "best.yaml", "report.html", "trials.csv"} <= there.keys()
    weights = {f"trials/{trial.number:04d}/best.pt" for trial in best_trials(outcome.study, 2)}
    assert {name for name in there if name.endswith("best.pt") and name.startswith("trials")} == weights
    assert not [name for name in there if name.endswith("checkpoint.pt")]
    with pytest.raises(UserError, match=r"stored\?.*: holds a sweep already"):
        check_storage(storage, new=True)


def test_a_sweep_goes_on_where_its_folder_is_not(
    stored_sweep: tuple[Path, Outcome, Storage], stored_run: Storage, small_store: Store, tmp_path: Path
) -> None:
    folder, outcome, _ = stored_sweep
    write_plan(replace(read_plan(folder), storage=stored_run.uri), tmp_path)
    # A trial had begun of which the study knows nothing yet.
    for place in (stored_run, stored_run.at("trials", "0005")):
        place.push(tmp_path, ["sweep.yaml"])
    fetch_run(stored_run, tmp_path / "kept")
    plan = read_plan(tmp_path / "kept")
    again = run_sweep(plan, tmp_path / "kept", small_store.path, 1, None, lambda seed, metrics: None)
    begun = [[trial.datetime_start for trial in one.study.trials] for one in (again, outcome)]
    assert begun[0] == begun[1]
    assert all((tmp_path / "kept" / f"trials/{one.number:04d}/best.pt").exists() for one in best_trials(again.study, 2))
    assert (tmp_path / "kept" / ENSEMBLE).read_text() == (folder / ENSEMBLE).read_text()
    assert not stored_run.at("trials", "0005").files()


def test_unknown_trials_go_and_known_ones_stay(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    for number in range(4):
        storage.at("trials", f"{number:04d}").push(tmp_path, ["config.yaml"])
    drop_unknown_trials(storage, 2)
    assert sorted(storage.files()) == ["trials/0000/config.yaml", "trials/0001/config.yaml"]


def test_a_refusing_store_is_waited_for(
    storage: Storage, small_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Storage(storage.uri.replace("s3://tests/", "s3://later/").replace("allow_bucket_creation=true", ""))
    rows = train_trial(CONFIG, small_store, tmp_path, None, folder)
    caplog.set_level(logging.WARNING, "raygap")

    def create(*arguments: object) -> None:
        import boto3

        endpoint = "http://" + storage.uri.partition("endpoint_override=")[2].partition("&")[0]
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="later")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raygap.patience.time.sleep", create)
        assert next(rows)["epoch"] == 1
    assert "waiting for up to" in caplog.text
    rows.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("s4://bucket/path", "--storage s4://bucket/path: not understood; give a folder, or s3://, gs://"),
        ("s3:/bucket/path", "--storage s3:/bucket/path: not understood; give a folder, or s3://, gs://"),
        ("s3://key:secret@bucket/path", "--storage s3://...: holds a secret; secrets belong into the environment"),
        ("s3://key:se/secret@bucket/path", "--storage s3://...: holds a secret"),
        ("s3://key:12/secret@bucket/path", "--storage s3://...: holds a secret"),
        ("s3://key:se?secret@bucket/path", "--storage s3://...: holds a secret"),
        ("s3://key:12#secret@bucket/path", "--storage s3://...: holds a secret"),
        ("s3://key%3Asecret@bucket/path", "--storage s3://...: holds a secret"),
        ("gs://secret@bucket/path", "--storage gs://...: holds a secret"),
        ("s3://bucket/path?endpoint_override=me:secret@host", "--storage s3://...: holds a secret"),
        ("s3:/key:secret@bucket/path", "--storage s3:...: not understood"),
        ("abfs://box@a.example/p?client_secret=secret@", "--storage abfs://...: client_secret= is no option that may"),
    ],
)
def test_what_cannot_be_a_storage(given: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        split_storage(given)
    assert str(error.value).startswith(message)
    assert "secret@" not in str(error.value)


def test_a_bucket_that_is_not_there_is_named(storage: Storage) -> None:
    with pytest.raises(UserError, match=r"^s3://nobody/.*cannot be written \(.*bucket does not exist"):
        check_storage(Storage(storage.uri.replace("s3://tests/", "s3://nobody/")), new=True)


def test_a_folder_may_be_a_storage(tmp_path: Path) -> None:
    assert split_storage(str(tmp_path)) == (tmp_path, None)
    assert split_storage(f"file://{tmp_path}") == (tmp_path, None)
    assert split_storage(None) == (None, None)


def test_what_killed_processes_left_is_removed_and_what_is_in_use_is_not(storage: Storage) -> None:
    with _at_work(Path("unused"), storage.at("living")) as living:
        left = storage.at("dead").scratch()
        for folder in (left, living):
            folder.mkdir(parents=True, exist_ok=True)
        left.with_suffix(".lock").touch()
        with _at_work(Path("unused"), storage.at("next")):
            assert living.exists()
            assert not left.exists()
    assert not list(machine_folder().iterdir())
