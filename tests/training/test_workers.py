"""Several processes that train one trial, over gloo, against one process."""

import json
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from children import start
from options import OPTIONS
from stores import SMALL

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.methods.base import Method
from raygap.schema import field_paths, from_mapping
from raygap.training.evaluation import evaluate
from raygap.training.histories import FOLDER, write_pool
from raygap.training.precision import pick_device
from raygap.training.run import load_network, train
from raygap.training.trunk import SharedWarmups
from raygap.workers import Workers

# 48 training clips: batches of 14 leave a rest of 6, of 47 a lone clip, of 5 three: parts of 0, 1 and 2 clips occur.
# Purification keeps all, and no mixture of four components is fitted to so few clips: a threshold and an optimum may
# hang on the last bits.
FIELDS = SMALL | {
    "epochs": 4,
    "warmup.epochs": 1,
    "model.norm": "group",
    "optimizer.batch_size": 14,
    "optimizer.lr": 0.02,
    "purify.threshold": 0.0,
    "scores.separator": "raw",
}

Rows = dict[tuple[str, int], list[dict]]
"""Of each run, by its folder and the epoch after which it is stopped."""
END = 99


def work(told: Connection, rank: int, size: int, folder: Path, store: Path, runs: list[tuple[str, dict, int]]) -> None:
    """One of the workers; tells all rows."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    everything: list[list[dict]] = []
    for run, fields, epochs in runs:
        everything.append(rows := [])
        config = from_mapping(fields | {"compute.workers": size})
        trunk = SharedWarmups((folder / run).parent / "trunk", 1e9)
        for row in train(config, Store.open(store), folder / run, trunk=trunk):
            rows.append(row)
            if row["epoch"] == epochs:
                break
    dist.destroy_process_group()
    told.send(json.dumps(everything))  # not before: one that waits for its reader would keep the others waiting


def together(size: int, store: Store, folder: Path, runs: list[tuple[str, dict, int]]) -> Rows:
    """Train each run (its folder, fields and last epoch), one after the other; all workers agree on the rows.

    Runs in the same folder share warm-ups.
    """
    workers = [start(work, rank, size, folder, store.path, runs) for rank in range(size)]
    outputs = [told.recv() for _, told in workers]
    for worker, _ in workers:
        worker.join()
    assert outputs == outputs[:1] * size
    return {(run, epochs): rows for (run, _, epochs), rows in zip(runs, json.loads(outputs[0]), strict=True)}


def close(rows: list[dict], others: list[dict]) -> None:
    """Equal but for rounding."""
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            if name == "gap_counts":  # a rounding may carry a gap over the edge of its bin
                assert np.abs(np.subtract(value, other[name])).sum() <= 4
            else:
                expected = pytest.approx(other[name], rel=1e-4, abs=1e-4) if isinstance(value, float) else other[name]
                assert value == expected, name


OWN = {
    "mmpareto": {"model.readout": "heads"},
    "gradient_blending": {"warmup.epochs": 0, "gradient_blending.super_epoch": 1},
    "relearning": {"warmup.epochs": 0, "relearning.period": 0.33},
    "reconboost": {"model.fusion": "sum", "reconboost.boost_epochs": 1},
    "cggm": {"model.readout": "heads"},
}
"""Fields that a method needs."""
SHORT = {name: {"epochs": 3, "purify.epochs": 0, "method": name} | OWN.get(name, {}) for name in METHODS}
SHORT |= {f"dus_{kind}": SHORT["unimodal_losses"] | {"dus.kind": kind} for kind in ("heuristic", "ppo")}
SHORT = {
    name: {path: value for path, value in (FIELDS | own).items() if path in field_paths(own["method"])}
    for name, own in SHORT.items()
}
BATCHES = {run: FIELDS | {"optimizer.batch_size": clips} for run, clips in {"rest": 14, "lone": 47, "small": 5}.items()}
BATCHES["other"] = BATCHES["rest"] | {"loss.focus": 1.0}
BATCHES["scored"] = SHORT["gmm_adaptive"] | {"gap.source": "history", "history.runs": 1}
BATCHES["pooled"] = SHORT["gmm_adaptive"] | {"gap.source": "history", "history.pool": 24 * "0"}
BATCHES["guided"] = SHORT["gmm_adaptive"] | {"epochs": 4, "purify.epochs": 1, "gap.source": "fresh"}
PARTS = [("whole", END), ("stopped", 2), ("stopped", END)]
STOPPED = {norm: FIELDS | {"model.norm": norm} for norm in ("group", "batch")}
"""Runs that go on from a checkpoint, beside those that do not."""
KEEPING = [name for name in SHORT if name.startswith("dus_") or METHODS[name].state_dict is not Method.state_dict]
"""These keep something of their own in it; they go on from one, and equal one process that was never stopped."""


@pytest.fixture(scope="module")
def above(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all that is trained here; in it a history that is pooled from two plain trainings."""
    folder = tmp_path_factory.mktemp("workers")
    for seed in range(2):
        list(train(from_mapping(SHORT["unimodal_losses"] | {"seed": seed}), small_store, folder / "plain" / str(seed)))
    ledgers = [folder / "plain" / str(seed) / "ledger.parquet" for seed in range(2)]
    write_pool(ledgers, folder / FOLDER / f"{BATCHES['pooled']['history.pool']}.parquet")
    return folder


@pytest.fixture(scope="module")
def pair(small_store: Store, above: Path) -> tuple[Path, Rows]:
    """The folder and the rows of all that two workers train here: to start them takes longer than a run."""
    folder = above / "pair"
    folder.mkdir()
    runs = [(f"{name}/run", SHORT[name], end) for name in SHORT for end in ((2, END) if name in KEEPING else (END,))]
    runs += [(f"batches/{run}", fields, END) for run, fields in BATCHES.items()]
    runs += [(f"options/{name}", SHORT["unimodal_losses"] | fields, END) for name, fields in OPTIONS.items()]
    for norm, fields in STOPPED.items():
        runs += [(f"{norm}/{run}", fields, end) for run, end in PARTS]
    return folder, together(2, small_store, folder, runs)


@pytest.fixture(scope="module")
def alone(small_store: Store, above: Path) -> dict[str, tuple[Path, list[dict]]]:
    """The runs with different batches, each by one process: its folder and rows."""
    folder = above / "alone"
    fields = {run: BATCHES[run] for run in ("rest", "lone", "small", "guided", "scored", "pooled")}
    return {run: (folder / run, list(train(from_mapping(fields[run]), small_store, folder / run))) for run in fields}


def test_every_methods_workers_together_equal_one(pair: tuple[Path, Rows], small_store: Store, tmp_path: Path) -> None:
    for name, fields in SHORT.items():
        found = [row | {"epochs_reused": 0} for row in pair[1][f"{name}/run", END]]
        if name != "tcmax":  # pairs the clips of a worker's part
            close(found, list(train(from_mapping(fields), small_store, tmp_path / name)))
        assert len(found) == 3


def test_workers_together_equal_one_with_every_option(
    pair: tuple[Path, Rows], small_store: Store, tmp_path: Path
) -> None:
    for name, fields in OPTIONS.items():
        found = [row | {"epochs_reused": 0} for row in pair[1][f"options/{name}", END]]
        config = from_mapping(SHORT["unimodal_losses"] | fields)
        close(found, list(train(config, small_store, tmp_path / name)))


@pytest.mark.parametrize("size", [2, 3])
def test_workers_together_equal_one(
    size: int,
    alone: dict[str, tuple[Path, list[dict]]],
    small_store: Store,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if size == 2:
        folder, rows = request.getfixturevalue("pair")
    else:
        folder = tmp_path
        rows = together(size, small_store, folder, [(f"batches/{run}", BATCHES[run], END) for run in ("lone", "small")])
    if size == 2:  # a warm-up is shared among trials of as many workers
        assert rows["batches/other", END][0] == rows["batches/rest", END][0] | {"epochs_reused": 1}
    for run, (place, expected) in alone.items():
        if (f"batches/{run}", END) not in rows:
            continue
        close([row | {"epochs_reused": 0} for row in rows[f"batches/{run}", END]], expected)
        ledgers = [pq.read_table(files / "ledger.parquet") for files in (folder / "batches" / run, place)]
        assert ledgers[0]["records"].equals(ledgers[1]["records"])  # each clip once an epoch
        np.testing.assert_allclose(ledgers[0]["audio_average"], ledgers[1]["audio_average"], atol=1e-4)
        if run == "pooled":
            assert ledgers[0]["audio_history"].equals(ledgers[1]["audio_history"])
            assert {row["scoring_epochs"] for row in rows["batches/pooled", END]} == {0}


@pytest.mark.parametrize("name", list(STOPPED))
def test_workers_go_on_from_a_checkpoint_as_if_never_stopped(name: str, pair: tuple[Path, Rows]) -> None:
    whole, first, again = ([row | {"epochs_reused": 0} for row in pair[1][f"{name}/{run}", end]] for run, end in PARTS)
    assert first == whole[:2]
    assert again == whole
    kept = [load_network(pair[0] / name / run / "best.pt", 3)[1].state_dict() for run in ("whole", "stopped")]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


def test_what_workers_keep_is_what_they_validated(pair: tuple[Path, Rows], small_store: Store) -> None:
    # The running statistics of batch normalisation come of each worker's own clips; best.pt holds the mean of them.
    folder, rows = pair
    config, network = load_network(folder / "batch" / "whole" / "best.pt", len(small_store.class_names))
    metrics = evaluate(network.to(pick_device()), small_store, "val", config, pick_device())
    *_, last = rows["batch/whole", END]
    told = rows["batch/whole", END][last["best_epoch"] - 1]
    assert metrics["val_accuracy"] == told["val_accuracy"] == last["best_val_accuracy"]
    assert metrics["val_loss"] == pytest.approx(told["val_loss"], rel=1e-5)


def test_parts_cover_a_batch_once_whatever_the_rest() -> None:
    for size in range(1, 6):
        for clips in range(1, 12):
            seen = []
            for rank in range(size):
                workers = Workers()
                workers.rank, workers.size = rank, size
                part, count = workers.share(np.arange(100, 100 + clips))
                assert size == 1 or len(part) >= 2
                seen += part[:count].tolist()
            assert sorted(seen) == list(range(100, 100 + clips))


def test_a_trial_for_several_workers_is_not_trained_by_one(small_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"compute\.workers = 2, but 1 train"):
        next(train(from_mapping(FIELDS | {"compute.workers": 2}), small_store, tmp_path))
    assert not torch.distributed.is_initialized()
