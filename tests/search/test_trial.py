import math
from pathlib import Path
from typing import Any

import pytest
from stores import SMALL

from raygap.data.store import Store
from raygap.errors import TrialFailed
from raygap.methods.unimodal_losses import UnimodalLosses
from raygap.schema import from_mapping, to_mapping
from raygap.search.study import METRIC, TRIAL_NUMBER
from raygap.search.training import Training
from raygap.search.trial import SweepTrial, train_in_worker, train_trial_seeds
from raygap.tracking.objectives import judged, parse_metric
from raygap.training.run import train
from raygap.training.trunk import SharedWarmups

FIELDS = SMALL | {"method": "unimodal_losses"}


@pytest.fixture
def trunk(small_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedWarmups:
    """A warm-up of two epochs, after which every trial's loss becomes NaN."""
    shared = SharedWarmups(tmp_path / "trunk", 1e9)
    list(train(from_mapping(FIELDS), small_store, tmp_path / "first", trunk=shared))

    def diverging(*given: Any) -> dict[str, Any]:
        return {name: math.nan * term for name, term in terms(*given).items()}

    terms = UnimodalLosses.adaptive_terms
    monkeypatch.setattr(UnimodalLosses, "adaptive_terms", diverging)
    return shared


def test_a_failed_trial_tells_how_many_epochs_it_did_not_train(
    small_store: Store, tmp_path: Path, trunk: SharedWarmups
) -> None:
    trial = SweepTrial.__new__(SweepTrial)
    trial.setup(
        {TRIAL_NUMBER: 3},
        store=small_store.path,
        fixed=FIELDS,
        folder=tmp_path,
        trunk=trunk,
        copies=None,
        metric="accuracy",
    )
    *_, last = (trial.step() for _ in range(3))
    assert "the loss became nan in epoch 3" in last["error"]
    assert (last["epoch"], last["epochs_reused"], last["done"]) == (2, 2, True)
    assert math.isnan(last[METRIC])
    trial.reset_config({TRIAL_NUMBER: 4})  # nothing is left of the one before
    trial.results = iter(())
    assert set(trial.last.values()) == {0}


def test_the_same_seed_of_another_winner_shares_its_warmup(small_store: Store, tmp_path: Path) -> None:
    shared = SharedWarmups(tmp_path / "trunk", 1e9)
    reused = []
    for number, focus in enumerate((1.0, 2.0)):
        config = from_mapping(SMALL | {"loss.focus": focus})
        training = Training(config, small_store.path, tmp_path / str(number), shared, test=True)
        train_in_worker(training, lambda row: reused.append(row["epochs_reused"]))
    assert reused == [0] * 7 + [1] + [2] * 6


def test_so_does_one_of_several_workers(small_store: Store, tmp_path: Path, trunk: SharedWarmups) -> None:
    reported = []
    with pytest.raises(TrialFailed) as failed:
        train_in_worker(Training(from_mapping(FIELDS), small_store.path, tmp_path / "0", trunk), reported.append)
    reason, last = failed.value.args
    assert "the loss became nan" in reason
    assert last == {"epoch": 2, "epochs_reused": 2, "scoring_epochs": 0}
    assert len(reported) == 2


def test_seeds_of_a_trial_follow_each_other_and_each_trains_as_it_would_alone(
    small_store: Store, tmp_path: Path
) -> None:
    config = from_mapping(FIELDS | {"optimizer.lr": 0.05, "epochs": 2, "warmup.epochs": 1})
    whole = list(train_trial_seeds(config, small_store, tmp_path / "trial", None, metric="loss", seeds=2))
    assert [row["epoch"] for row in whole] == [1, 2, 2, 2]
    assert [row["epochs_in_all"] for row in whole] == [1, 2, 3, 4]
    assert [len(row["seed_values"]) for row in whole] == [0, 1, 1, 2]
    for number in range(2):
        seeded = from_mapping(to_mapping(config) | {"seed": number})
        *_, alone = judged(train(seeded, small_store, tmp_path / str(number)), parse_metric("loss"))
        assert whole[-1]["seed_values"][number] == alone[METRIC] < 0
    again = list(train_trial_seeds(config, small_store, tmp_path / "trial", None, metric="loss", seeds=2))
    assert [row["seed_values"] for row in again] == [row["seed_values"] for row in whole]
