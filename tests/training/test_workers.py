"""Several processes that train one trial, over gloo, against one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from stores import SMALL

from raygap.config import from_mapping
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.training.run import train
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
WORKER = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from raygap.config import from_mapping
from raygap.data.store import Store
from raygap.training.run import train
from raygap.training.trunk import SharedWarmups
rank, size, folder, store = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Store.open(Path(sys.argv[4]))
dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=size)
for run, fields, epochs in json.loads(sys.argv[5]):
    rows = []
    config = from_mapping(fields | {"compute.workers": size})
    for row in train(config, store, folder / run, trunk=SharedWarmups(folder / "trunk", 1e9)):
        rows.append(row)
        if row["epoch"] == epochs:
            break
    print(json.dumps(rows), flush=True)
dist.destroy_process_group()
"""


def together(size: int, store: Store, folder: Path, runs: list[tuple[str, dict, int]]) -> list[list[dict]]:
    """Rows of each run (its folder, fields and last epoch), one after the other; all workers agree on them."""
    arguments = [str(size), str(folder), str(store.path), json.dumps(runs)]
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), *arguments], stdout=subprocess.PIPE)
        for rank in range(size)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * size
    assert outputs == outputs[:1] * size
    return [json.loads(line) for line in outputs[0].splitlines()]


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


METHODS = {
    "ogm_ge": {},
    "mmpareto": {"model.readout": "heads"},
    "gradient_blending": {"warmup.epochs": 0, "gradient_blending.super_epoch": 1},
    "pmr": {},
    "agm": {},
    "mla": {},
    "opm": {},
    "umt": {},
    "relearning": {"warmup.epochs": 0, "relearning.every": 1},
    "resample": {},
    "reconboost": {"model.fusion": "sum", "reconboost.boost_epochs": 1},
    "unimodal_losses": {"dus.kind": "ppo"},
}
"""Methods with statistics of the whole batch, gradients, random draws or steps of their own, and fields for them."""


def test_every_methods_workers_together_equal_one(small_store: Store, tmp_path: Path) -> None:
    short = FIELDS | {"epochs": 3, "purify.epochs": 0}
    fields = {name: short | {"method": name} | own for name, own in METHODS.items()}
    rows = together(2, small_store, tmp_path, [(name, fields[name], 99) for name in fields])
    for name, together_rows in zip(fields, rows, strict=True):
        alone = list(train(from_mapping(fields[name]), small_store, tmp_path / "alone" / name))
        close([row | {"epochs_reused": 0} for row in together_rows], alone)


@pytest.mark.parametrize("size", [2, 3])
def test_workers_together_equal_one(small_store: Store, tmp_path: Path, size: int) -> None:
    batches = {"rest": 14, "lone": 47, "small": 5}
    fields = {run: FIELDS | {"optimizer.batch_size": clips} for run, clips in batches.items()}
    fields["other"] = fields["rest"] | {"loss.focus": 1.0}
    fields["guided"] = fields["rest"] | {"method": "gmm_adaptive", "gap.source": "fresh"}
    rows = together(size, small_store, tmp_path, [(run, fields[run], 99) for run in fields])
    by_run = dict(zip(fields, rows, strict=True))
    # A warm-up is shared among trials of as many workers.
    assert by_run["other"][0] == by_run["rest"][0] | {"epochs_reused": 1}
    for run in ("rest", "lone", "small", "guided"):
        alone = list(train(from_mapping(fields[run]), small_store, tmp_path / "alone" / run))
        close([row | {"epochs_reused": 0} for row in by_run[run]], alone)
        ledgers = [pq.read_table(tmp_path / folder / "ledger.parquet") for folder in (run, Path("alone") / run)]
        assert ledgers[0]["records"].equals(ledgers[1]["records"])  # each clip once an epoch
        np.testing.assert_allclose(ledgers[0]["audio_average"], ledgers[1]["audio_average"], atol=1e-4)


def test_workers_go_on_from_a_checkpoint_as_if_never_stopped(small_store: Store, tmp_path: Path) -> None:
    runs = [("whole", FIELDS, 99), ("stopped", FIELDS, 2), ("stopped", FIELDS, 99)]
    whole, first, again = together(2, small_store, tmp_path, runs)
    assert [row | {"epochs_reused": 0} for row in first] == whole[:2]
    assert [row | {"epochs_reused": 0} for row in again] == whole


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
