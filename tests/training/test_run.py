import itertools
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
import torch
from children import start
from stores import SMALL, write_store

from raygap.data.store import Store
from raygap.errors import TrainingDiverged, UserError
from raygap.methods.base import Terms
from raygap.methods.unimodal_losses import UnimodalLosses
from raygap.schema import from_mapping
from raygap.tracking.figures import gap_values
from raygap.training import checkpoint
from raygap.training.final import test as read_test
from raygap.training.run import load_network, train


def run(store: Store, folder: Path, **fields: Any) -> list[dict[str, Any]]:
    return list(train(from_mapping(SMALL | {k.replace("__", "."): v for k, v in fields.items()}), store, folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["trainer"]["network"]


def assert_same_run(one: Path, other: Path) -> None:
    for table in ("metrics.parquet", "ledger.parquet"):
        assert pq.read_table(one / table).equals(pq.read_table(other / table)), table
    a, b = weights(one), weights(other)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["joint", "gmm_scores"])
def test_same_configuration_and_seed_give_the_same_run(method: str, small_store: Store, tmp_path: Path) -> None:
    first = run(small_store, tmp_path / "a", method=method)
    torch.rand(5)  # nobody else's draws matter
    second = run(small_store, tmp_path / "b", method=method)
    assert first == second
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert run(small_store, tmp_path / "c", method=method, seed=1) != first


@pytest.fixture(
    scope="module",
    params=[
        {"method": "gmm_scores"},
        {"method": "gmm_adaptive", "gap__source": "fresh", "mixture__refit_every": 2, "loss__shift_weight": 0.5},
        {"method": "unimodal_losses", "optimizer__name": "adamw", "optimizer__schedule": "cosine"},
    ],
    ids=lambda fields: fields["method"],
)
def whole(
    request: pytest.FixtureRequest, small_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, list[dict[str, Any]]]:
    """Fields, and the folder and rows of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, folder, run(small_store, folder, **request.param)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])  # at either end of a stage and within
def test_resumed_equals_uninterrupted(
    stop_after: int, whole: tuple[dict[str, Any], Path, list[dict[str, Any]]], small_store: Store, tmp_path: Path
) -> None:
    fields, folder, rows = whole
    config = from_mapping(SMALL | {k.replace("__", "."): v for k, v in fields.items()})
    begun = train(config, small_store, tmp_path / "parts")
    list(itertools.islice(begun, stop_after))
    begun.close()
    assert list(train(config, small_store, tmp_path / "parts")) == rows
    assert_same_run(folder, tmp_path / "parts")


def train_long(told: Connection, store: Path, folder: Path) -> None:
    told.send("ready")
    for _ in train(from_mapping(SMALL | {"epochs": 40}), Store.open(store), folder):
        pass


@pytest.mark.cluster
def test_a_run_killed_at_random_moments_equals_an_undisturbed_one(small_store: Store, tmp_path: Path) -> None:
    moments = random.Random(1)
    for _ in range(2):
        child, told = start(train_long, small_store.path, tmp_path / "killed")
        told.recv()
        time.sleep(moments.uniform(0.05, 0.8))
        child.kill()
        child.join()
    run(small_store, tmp_path / "killed", epochs=40)
    run(small_store, tmp_path / "whole", epochs=40)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert read_test(tmp_path / "whole", small_store) == read_test(tmp_path / "killed", small_store)


def test_fresh_scores_are_known_at_every_moment(small_store: Store, tmp_path: Path) -> None:
    for method in ("gmm_adaptive", "joint"):
        rows = run(small_store, tmp_path / method, method=method, gap__source="fresh", purify__epochs=0)
        assert all("gap_absolute_mean" in row for row in rows)
        assert all(len(values) == 48 for values in gap_values(tmp_path / method, "absolute").values())


def test_the_stages_follow_each_other(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path, method="gmm_scores", warmup__epochs=2, epochs=7, purify__epochs=2)
    assert [row["stage"] for row in rows] == ["warmup"] * 2 + ["adaptive"] * 3 + ["purification"] * 2
    assert [row["epoch"] for row in rows] == list(range(1, 8))
    assert not any("mixture_degenerate" in row for row in rows[:2])
    assert all("mixture_degenerate" in row for row in rows[2:6])
    assert "train_loss_align" in rows[2]
    assert "train_loss_align" not in rows[5]


def test_a_batch_left_with_one_clip_is_trained_on(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path, optimizer__batch_size=47, epochs=3)  # 48 training clips, 1x1 feature maps
    assert len(rows) == 3


def test_training_learns(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path, epochs=12)
    assert rows[-1]["best_val_accuracy"] > 0.7  # chance is a third
    assert read_test(tmp_path, small_store)["test_accuracy"] > 0.6


def test_what_comes_after_the_warmup_does_not_change_it(small_store: Store, tmp_path: Path) -> None:
    plain = run(small_store, tmp_path / "a", method="unimodal_losses")
    later = {"loss__focus": 9.0, "loss__align_weight": 2.0, "mixture__refit_every": 3, "purify__threshold": 0.9}
    for number, fields in enumerate([{}, later, later | {"epochs": 9, "warmup__epochs": 3}]):
        rows = run(small_store, tmp_path / str(number), method="gmm_scores", **fields)
        for mine, theirs in zip(rows[:2], plain[:2], strict=True):
            assert {k: v for k, v in mine.items() if "best" not in k} == {
                k: v for k, v in theirs.items() if "best" not in k
            }


def test_training_never_sees_the_test_split(tmp_path: Path) -> None:
    stores = [write_store(tmp_path / f"store{i}", test_seed=i) for i in range(2)]
    rows = [run(store, tmp_path / f"run{i}") for i, store in enumerate(stores)]
    assert rows[0] == rows[1]
    assert not any(name.startswith("test") for name in rows[0][-1])
    assert_same_run(tmp_path / "run0", tmp_path / "run1")


def test_constant_posteriors_without_alignment_are_unimodal_losses(small_store: Store, tmp_path: Path) -> None:
    plain = run(small_store, tmp_path / "plain", method="unimodal_losses", purify__epochs=0)
    for method in ("gmm_scores", "gmm_adaptive"):
        fields = {"mixture__posterior": "constant", "loss__align_weight": 0.0, "purify__epochs": 0}
        run(small_store, tmp_path / method, method=method, **fields)
        one, other = weights(tmp_path / "plain"), weights(tmp_path / method)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    assert plain[-1]["epoch"] == 6


def test_selected_epoch_is_the_best_after_warmup_or_the_last(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path / "best", epochs=8)
    after = rows[2:]
    assert rows[-1]["best_val_accuracy"] == max(row["val_accuracy"] for row in after)
    assert rows[-1]["best_epoch"] == max(after, key=lambda row: row["val_accuracy"])["epoch"]
    last = run(small_store, tmp_path / "last", epochs=8, select_epoch="last")
    assert last[-1]["best_epoch"] == 8
    assert last[-1]["best_val_accuracy"] == last[-1]["val_accuracy"]


def test_weights_are_kept_from_the_first_epoch_that_can_be_selected(small_store: Store, tmp_path: Path) -> None:
    for name, fields, first in (
        ("adaptive", {}, 3),
        ("last", {"select_epoch": "last"}, 3),
        ("warm-up alone", {"warmup.epochs": 6, "purify.epochs": 0}, 1),
        ("purification alone", {"warmup.epochs": 3, "purify.epochs": 3}, 4),
    ):
        folder = tmp_path / name
        for row in train(from_mapping(SMALL | fields), small_store, folder):
            assert (folder / "best.pt").exists() is (row["epoch"] >= first)
        assert read_test(folder, small_store)


class Explodes(UnimodalLosses):
    def adaptive_terms(self, *batch: Any) -> Terms:
        return {name: term * float("nan") for name, term in super().adaptive_terms(*batch).items()}


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_its_epochs(small_store: Store, tmp_path: Path) -> None:
    rows = []
    with pytest.raises(TrainingDiverged, match="epoch 3"):
        rows.extend(train(from_mapping(SMALL), small_store, tmp_path, Explodes))
    assert len(pq.read_table(tmp_path / "metrics.parquet")) == 2


def test_a_folder_of_another_run_is_refused(small_store: Store, tmp_path: Path) -> None:
    run(small_store, tmp_path)
    with pytest.raises(UserError, match="another configuration"):
        run(small_store, tmp_path, seed=3)


def test_a_run_of_an_older_raygap_with_fewer_fields_goes_on(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path, method="joint")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del saved["identity"]["config"]["prepare"]["input"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert run(small_store, tmp_path, method="joint") == rows
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    del best["channels"], best["config"]["prepare"]["input"]
    torch.save(best, tmp_path / "best.pt")
    assert load_network(tmp_path / "best.pt", 3)[1].channels == {"audio": 1, "visual": 3}


def test_a_damaged_checkpoint_is_named(small_store: Store, tmp_path: Path) -> None:
    run(small_store, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.pt: not a readable checkpoint"):
        run(small_store, tmp_path)


def test_bf16_trains_to_about_the_same(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path, epochs=12, compute__precision="bf16")
    assert rows[-1]["best_val_accuracy"] > 0.7


def test_weights_from_before_they_said_what_made_them_are_read(small_store: Store, tmp_path: Path) -> None:
    run(small_store, tmp_path, epochs=4, method="joint")
    saved = checkpoint.load(tmp_path / "best.pt")
    assert saved.pop("made_by")["torch"]
    checkpoint.save(saved, tmp_path / "best.pt")
    assert load_network(tmp_path / "best.pt", 3)[0].method == "joint"


def test_a_file_system_that_refuses_says_nothing_of_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save({}, tmp_path / "checkpoint.pt")
    for error, raised in ((OSError(5, "away"), OSError), (PermissionError(13, "not yours"), UserError)):
        monkeypatch.setattr(Path, "read_bytes", mock.Mock(side_effect=error))
        with pytest.raises(raised):
            checkpoint.load(tmp_path / "checkpoint.pt")
