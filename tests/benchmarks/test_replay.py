"""Recorded curves and what is replayed over them: epochs are counted as they are trained, the old rule is Ray's."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import curves
from replay import RULES, Curve, OldRule, Outcome, read_curves, replay, replay_in_step, table
from stores import SMALL

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.search.stopping import StoppingRule, Warmup
from raygap.training import run
from raygap.training.trainer import Trainer

EPOCHS = 20


def curve(level: float, warmup: int = 4, name: str = "shared", epochs: int = EPOCHS) -> Curve:
    return Curve(Warmup(warmup, name), EPOCHS, (level,) * epochs, level)


def test_a_shared_warmup_is_counted_once_and_what_is_stopped_not_beyond() -> None:
    both = [curve(0.8), curve(0.5, warmup=2), curve(0.9, warmup=6, name="own")]
    assert replay(RULES["none"](EPOCHS), both) == Outcome(pytest.approx((4 + 16 + 18 + 20) / 60), 0.0, 90.0, 3)
    stopped = replay(StoppingRule(EPOCHS, 5, 2.0, 0.5), both)  # the second after epoch 5
    assert stopped == Outcome(pytest.approx((4 + 16 + 3 + 20) / 60), 0.0, 90.0, 2)
    late = Curve(Warmup(0, "none"), EPOCHS, (0.1,) * 10 + (0.9,) * 10, 0.9)
    missed = replay(StoppingRule(EPOCHS, 5, 2.0, 0.5), [curve(0.8), late])
    assert (missed.regret, missed.test, missed.ended) == (pytest.approx(10.0), 80.0, 1)


def test_in_step_every_verdict_has_seen_all_that_come_as_far() -> None:
    rule = StoppingRule(EPOCHS, 5, 2.0, 0.5)
    worst_first = [curve(level, warmup=0, name="none") for level in (0.2, 0.4, 0.6, 0.8)]
    assert replay(rule, worst_first).ended == 4  # each leads when it comes
    found = replay_in_step(StoppingRule(EPOCHS, 5, 2.0, 0.5), worst_first)
    assert found == Outcome(pytest.approx((2 * 5 + 10 + 20) / 80), 0.0, 80.0, 1)
    assert replay_in_step(RULES["none"](EPOCHS), worst_first) == replay(RULES["none"](EPOCHS), worst_first)
    own = [curve(0.8, warmup=6), curve(0.9, warmup=2), curve(0.99, warmup=2, name="other", epochs=4)]
    assert replay_in_step(rule.__class__(EPOCHS, 5, 2.0, 0.5), own) == Outcome(
        pytest.approx((6 + 2 + 2 + 18 + 2) / 60), 0.0, 90.0, 1
    )


def test_late_verdicts_leave_ever_fewer_of_all_that_were_judged() -> None:
    make = RULES["asha, late"]
    some = [curve(0.9 - 0.01 * number, warmup=0, name="none") for number in range(20)]
    assert replay(make(EPOCHS), some).epochs <= replay(RULES["asha"](EPOCHS), some).epochs
    better = [curve(0.1 + 0.01 * number, warmup=0, name="none") for number in range(3)]
    assert replay(make(EPOCHS), better).ended == 3


def test_trials_that_fail_take_no_part_in_the_choice_and_several_run_at_a_time() -> None:
    failing = curve(0.99, epochs=7, name="own")
    for at_once in (1, 2):
        found = replay(RULES["none"](EPOCHS), [failing, curve(0.8)], at_once)
        assert found == Outcome(pytest.approx((7 + 20) / 40), 0.0, 80.0, 1)


def test_the_old_rule_gives_the_verdicts_of_rays_asha() -> None:
    draw = random.Random(0)
    ours = OldRule(EPOCHS, 2, 3, 1 / 3)
    theirs = ASHAScheduler(
        time_attr="epoch", metric="value", mode="max", max_t=EPOCHS, grace_period=2, reduction_factor=3
    )
    for number in range(30):
        trial = SimpleNamespace(trial_id=str(number), stub=False)
        theirs.on_trial_add(None, trial)
        for epoch in range(1, EPOCHS):
            value = draw.choice([0.1, 0.2, 0.3, 0.4, 0.5])
            verdict = theirs.on_trial_result(None, trial, {"epoch": epoch, "value": value})
            assert ours.goes_on(number, Warmup(0, "none"), epoch, value) == (verdict == TrialScheduler.CONTINUE)
            if verdict == TrialScheduler.STOP:
                break


def test_recorded_curves_are_those_of_the_training_and_are_not_recorded_twice(
    tmp_path: Path, small_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Trainer", curves.Tested)
    monkeypatch.setitem(curves.SETTINGS, "small", SMALL | {"epochs": 5})
    sets = [curves.Set("small", method, small_store.path, tmp_path) for method in curves.METHODS]
    for one in sets:
        one.record(0)
        one.record(1)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    sets[0].record(0)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")} == before
    curves.gather(tmp_path, tmp_path / "curves.parquet")
    rows = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    assert [row["number"] for row in rows] == [0, 1, 0, 1]
    config = from_mapping(json.loads(rows[1]["fixed"]) | json.loads(rows[1]["config"]))
    trainer = Trainer(config, small_store)
    alone = [trainer.train_epoch() for _ in range(5)]
    assert rows[1]["val_accuracy"] == pytest.approx([metrics["val_accuracy"] for metrics in alone])
    assert min(rows[1]["seconds"]) > 0
    known = read_curves(tmp_path / "curves.parquet")["small, gmm_scores"][1]
    assert known.values == pytest.approx([metrics["best_val_accuracy"] for metrics in alone])
    assert rows[1]["test_accuracy"][alone[-1]["best_epoch"] - 1] == pytest.approx(known.test)
    lines = table(read_curves(tmp_path / "curves.parquet"), trials=2, number=3, at_once=1)
    assert len(lines) == 2 + 2 * (len(RULES) + 1)
