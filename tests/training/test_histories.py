import itertools
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from children import start
from stores import SMALL, write_store

from raygap.config import TrialConfig
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.schema import from_mapping
from raygap.training.histories import (
    FOLDER,
    SCORES,
    bring_pool,
    history_key,
    pool_key,
    scoring_config,
    wants_history,
    write_pool,
)
from raygap.training.run import train
from raygap.training.trunk import SharedWarmups

STEPS = 12
"""How often a scoring training of these fields tells, if it may at each step."""
SHORT = SMALL | {"epochs": 3, "warmup.epochs": 1, "gap.source": "history", "history.seed": 7}


def configured(**fields: Any) -> TrialConfig:
    return from_mapping(SHORT | {name.replace("__", "."): value for name, value in fields.items()})


def run(store: Store, folder: Path, shared: Path | None = None, **fields: Any) -> list[dict[str, Any]]:
    return list(train(configured(**fields), store, folder, trunk=SharedWarmups(shared, 1e9) if shared else None))


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def shared(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A folder with a trial in it and the history that it trained, and the trial's rows."""
    folder = tmp_path_factory.mktemp("shared")
    return folder, run(small_store, folder / "first", folder / ".trunk")


def test_a_history_is_the_mean_score_over_whole_plain_trainings(
    shared: tuple[Path, list[dict[str, Any]]], small_store: Store, tmp_path: Path
) -> None:
    folder, rows = shared
    means = []
    for seed in (7, 8):
        plain = {"method": "unimodal_losses", "warmup__epochs": 0, "purify__epochs": 0, "gap__source": "training"}
        run(small_store, tmp_path / str(seed), seed=seed, **plain)
        ledger = pq.read_table(tmp_path / str(seed) / "ledger.parquet")
        means.append([ledger[name].to_numpy() for name in ("audio_mean", "visual_mean")])
    expected = np.mean(means, axis=0)
    used = pq.read_table(folder / "first" / "ledger.parquet")
    shown = pq.read_table(folder / FOLDER / f"{history_key(configured(), small_store.header['key'])}.parquet")
    for i, name in enumerate(("audio", "visual")):
        np.testing.assert_allclose(used[f"{name}_history"].to_numpy(), expected[i], rtol=1e-6)
        np.testing.assert_array_equal(shown[name].to_numpy(), used[f"{name}_history"].to_numpy())
    assert shown["clip"] == used["clip"]
    assert rows[-1]["scoring_epochs"] == 2 * 3
    assert "history_uncentred_classes" in rows[1]


def test_trials_share_it_whatever_follows_their_warmup(
    shared: tuple[Path, list[dict[str, Any]]], small_store: Store, tmp_path: Path
) -> None:
    folder, rows = shared
    before = files(folder / FOLDER)
    others = ({"seed": 3}, {"method": "gmm_adaptive", "warmup__epochs": 0}, {"loss__focus": 50.0, "scores__beta": 0.5})
    for number, fields in enumerate(others):
        found = run(small_store, tmp_path / str(number), folder / ".trunk", **fields)
        assert found[-1]["scoring_epochs"] == 0
    assert files(folder / FOLDER) == before
    # Alone it is trained anew, and is the same to the last bit.
    alone = run(small_store, tmp_path / "alone")
    assert [row | {"epochs_reused": 0} for row in alone] == [row | {"epochs_reused": 0} for row in rows]
    more = run(small_store, tmp_path / "more", folder / ".trunk", history__runs=3)
    assert more[-1]["scoring_epochs"] == 3


@pytest.mark.parametrize(
    "fields",
    [
        *({"optimizer__lr": 0.01}, {"model__width": 8}, {"epochs": 4}, {"history__seed": 8}, {"augment__flip": False}),
        *({"warmup__unimodal_weight": 2.0}, {"protocol": "paper"}, {"history__runs": 1}),
    ],
)
def test_what_shapes_the_scores_makes_another_history(fields: dict[str, Any]) -> None:
    assert history_key(configured(**fields), "store") != history_key(configured(), "store")
    assert history_key(configured(), "other") != history_key(configured(), "store")


def test_scoring_trainings_are_plain_for_every_method() -> None:
    plain = scoring_config(configured(), 1)
    assert (plain.method, plain.seed, plain.warmup.epochs, plain.purify.epochs) == ("unimodal_losses", 8, 0, 0)
    assert not wants_history(plain, METHODS[plain.method])
    for name in METHODS:
        assert scoring_config(configured(method=name), 1) == plain


def train_beside(told: Connection, store: Path, folder: Path) -> None:
    told.send(run(Store.open(store), folder / "child", folder / ".trunk"))


def test_trials_that_want_one_at_once_train_it_once(
    shared: tuple[Path, list[dict[str, Any]]], small_store: Store, tmp_path: Path
) -> None:
    child, told = start(train_beside, small_store.path, tmp_path)
    mine = run(small_store, tmp_path / "mine", tmp_path / ".trunk")
    theirs = told.recv()
    child.join()
    assert mine[-1]["scoring_epochs"] + theirs[-1]["scoring_epochs"] == 6
    own = {"epochs_reused": 0, "scoring_epochs": 0}
    rows = [[row | own for row in rows] for rows in (mine, theirs, shared[1])]
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("stop_after", [1, 4, STEPS + 4, 2 * STEPS + 1])
def test_a_run_killed_while_it_is_scored_or_right_after_goes_on_and_counts_all_that_it_scored(
    stop_after: int, shared: tuple[Path, list[dict[str, Any]]], small_store: Store, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    steps = itertools.count()

    def tell(told: Any) -> None:
        if next(steps) == stop_after:
            raise Killed

    from raygap import pace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "TELL_EVERY", 0.0)
        with pytest.raises(Killed):
            list(train(configured(), small_store, tmp_path / "killed", tell=tell))
    ended = len(list((tmp_path / FOLDER).glob(f"*/{SCORES}")))
    assert ended == stop_after // STEPS
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    rows = run(small_store, tmp_path / "killed")
    assert [row | {"epochs_reused": 0} for row in rows] == [row | {"epochs_reused": 0} for row in shared[1]]
    assert pq.read_table(tmp_path / "killed" / "ledger.parquet").equals(
        pq.read_table(shared[0] / "first" / "ledger.parquet")
    )


def test_scores_of_other_clips_or_none_are_refused_by_name(small_store: Store, tmp_path: Path) -> None:
    run(small_store, tmp_path / "first", tmp_path / ".trunk")
    scores = sorted((tmp_path / FOLDER).glob(f"*/{SCORES}"))[0]
    table = pq.read_table(scores)
    pq.write_table(table.slice(1), scores)
    with pytest.raises(UserError, match=f"{SCORES}: holds other clips"):
        run(small_store, tmp_path / "second", tmp_path / ".trunk")
    scores.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="delete it to score anew"):
        run(small_store, tmp_path / "second", tmp_path / ".trunk")


def test_other_data_have_another_history(tmp_path: Path) -> None:
    for number in range(2):
        store = write_store(tmp_path / f"store{number}", seed=number)
        assert run(store, tmp_path / str(number), tmp_path / ".trunk")[-1]["scoring_epochs"] == 6


def test_purification_of_any_method_can_be_by_a_history(small_store: Store, tmp_path: Path) -> None:
    rows = run(small_store, tmp_path / "run", method="joint", purify__epochs=1)
    assert rows[-1]["scoring_epochs"] == 6
    assert rows[-1]["stage"] == "purification"
    assert rows[-1]["mixture_degenerate"] == 0


@pytest.fixture(scope="module")
def pooled(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, np.ndarray]:
    """The folder of a sweep with two plain trainings, the key of the history pooled from them, and its scores."""
    sweep, members, means = tmp_path_factory.mktemp("runs") / "sweep", [], []
    for number, weight in enumerate((0.5, 2.0)):
        plain = {"method": "unimodal_losses", "loss.unimodal_weight": weight, "purify.epochs": 0}
        members.append(from_mapping(SHORT | plain))
        list(train(members[-1], small_store, sweep / "trials" / str(number)))
        ledger = pq.read_table(sweep / "trials" / str(number) / "ledger.parquet")
        means.append([ledger[name].to_numpy() for name in ("audio_mean", "visual_mean")])
    key = pool_key(members, small_store.header["key"])
    assert key != pool_key(members[::-1], small_store.header["key"])
    ledgers = [sweep / "trials" / str(number) / "ledger.parquet" for number in range(2)]
    write_pool(ledgers, sweep / FOLDER / f"{key}.parquet")
    return sweep, key, np.mean(means, axis=0)


def test_a_history_pooled_from_plain_trials_is_found_by_all_runs_of_their_sweep(
    pooled: tuple[Path, str, np.ndarray], small_store: Store
) -> None:
    sweep, key, expected = pooled
    for place in ("trials/0002", "seeds/trial-0002/shuffled/5"):
        rows = run(small_store, sweep / place, history__pool=key)
        assert rows[-1]["scoring_epochs"] == 0
        ledger = pq.read_table(sweep / place / "ledger.parquet")
        for name, scores in zip(("audio", "visual"), expected, strict=True):
            np.testing.assert_allclose(ledger[f"{name}_history"].to_numpy(), scores, rtol=1e-6)
    assert [folder.parent for folder in sweep.rglob(FOLDER)] == [sweep]


def test_a_pooled_history_is_brought_from_beside_its_configuration_or_missed_by_name(
    pooled: tuple[Path, str, np.ndarray], small_store: Store, tmp_path: Path
) -> None:
    sweep, key, _ = pooled
    config = configured(history__pool=key)
    missing = f"history.pool = {key}: no {FOLDER}/{key}.parquet in .* or above; copy it .* or give --set history.pool= "
    with pytest.raises(UserError, match=missing):
        bring_pool(config, small_store, tmp_path / "run", None)
    with pytest.raises(UserError, match=missing):
        run(small_store, tmp_path / "run" / "0", history__pool=key)
    bring_pool(
        configured(history__pool=key, method="joint", purify__epochs=0), small_store, tmp_path / "run", None
    )  # has no use for it
    bring_pool(config, small_store, tmp_path / "run", sweep / "best.yaml")
    bring_pool(config, small_store, tmp_path / "run", None)
    assert run(small_store, tmp_path / "run" / "0", history__pool=key)[-1]["epoch"] == 3
    file = tmp_path / "run" / FOLDER / f"{key}.parquet"
    table = pq.read_table(file)
    more = table.slice(5, 1).set_column(0, "clip", [["another"]])  # as before its clip was left out
    pq.write_table(pa.concat_tables([more, table.slice(9), table.slice(0, 9)]), file)
    run(small_store, tmp_path / "run" / "2", history__pool=key)
    ledgers = [pq.read_table(tmp_path / "run" / number / "ledger.parquet") for number in ("0", "2")]
    assert ledgers[0].equals(ledgers[1])
    pq.write_table(table.slice(1), file)
    foreign = f"{key}.parquet: holds other clips than this training's; copy it anew"
    with pytest.raises(UserError, match=foreign):
        bring_pool(config, small_store, tmp_path / "run", None)
    with pytest.raises(UserError, match=foreign):
        run(small_store, tmp_path / "run" / "1", history__pool=key)
