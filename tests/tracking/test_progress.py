import re
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import optuna
import pytest
import ray
from optuna.trial import TrialState

from raygap.pace import Told
from raygap.tracking import whereabouts
from raygap.tracking.progress import ProgressLine
from raygap.tracking.run_folder import trial_folder


@pytest.mark.parametrize(("keep_top", "kept"), [(1, [1]), (3, [1, 4, 5]), (9, [0, 1, 4, 5])])
def test_the_line_tells_how_all_trials_ended_without_looking_at_all_of_them_again(
    keep_top: int, kept: list[int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study = optuna.create_study(direction="maximize")
    earlier = study.ask()
    study.tell(earlier, 0.4)  # before the sweep was resumed
    weights = [trial_folder(tmp_path, number) / "best.pt" for number in range(6)]
    for file in weights:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    line = ProgressLine(study, tmp_path, planned=6, epochs=4, number_of=itemgetter("number"), keep_top=keep_top)
    line.setup()

    def trial(number: int) -> SimpleNamespace:
        return SimpleNamespace(config={"number": number})

    trials = [study.ask() for _ in range(5)]
    for number in range(6):
        line.on_trial_start(0, [], trial(number))
    looks = mock.Mock(side_effect=study.get_trials)
    study.get_trials = looks
    for _ in range(9):
        line.on_trial_result(0, [], trial(1), {"epoch": 2})
    assert looks.call_count == 0
    trials[1].report(0.3, 2)
    # Not in the order of their numbers, and two at once.
    study.tell(trials[4], 0.7)
    line.on_trial_complete(0, [], trial(5))
    study.tell(trials[1], state=TrialState.PRUNED)
    study.tell(trials[0], 0.7)
    line.on_trial_complete(0, [], trial(1))
    study.tell(trials[2], state=TrialState.FAIL)
    line.on_trial_error(0, [], trial(3))
    study.tell(trials[3], 0.6)
    line.on_trial_complete(0, [], trial(4))
    assert looks.call_count == 4
    assert line.settled == 6
    assert line.progress.tasks[0].description == (
        "trials 6/6 · running 2 · stopped early 1 · failed 1 · best 0.700 (trial 1)"
    )
    assert [number for number, file in enumerate(weights) if file.exists()] == kept
    said = [re.sub(r" · in all about \d+ s left$", "", told) for told in capsys.readouterr().err.splitlines()]
    assert said == [
        "[2/6] trial 5 complete, 0.700 · best 0.700 (trial 5)",
        "[4/6] trial 1 complete, 0.700 · best 0.700 (trial 1)",
        "[4/6] trial 2 stopped early after epoch 2 · best 0.700 (trial 1)",
        "[5/6] trial 3 failed: None · best 0.700 (trial 1)",
        "[6/6] trial 4 complete, 0.600 · best 0.700 (trial 1)",
    ]


def test_without_a_terminal_a_line_comes_soon_after_each_trial_s_start_and_then_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    """Of steps that a process elsewhere tells."""
    now = 0.0
    monkeypatch.setattr(whereabouts.time, "monotonic", lambda: now)
    line = ProgressLine(optuna.create_study(), tmp_path, planned=9, epochs=12, number_of=itemgetter("number"))
    line.setup()

    @ray.remote
    def train(number: int, told: Told) -> None:
        whereabouts.teller(trial_folder(tmp_path, number))(told)

    def after(seconds: float) -> str:
        nonlocal now
        now += seconds
        line.on_step_end()
        return capsys.readouterr().err

    trials = [SimpleNamespace(config={"number": number}) for number in range(5)]
    assert after(0) == ""
    assert after(4) == ""
    assert after(2) == "[0/9] none is at work yet\n"
    line.on_trial_start(0, [], trials[0])
    ray.get(train.remote(0, Told(1, 40, 900, 430.0)))
    assert after(4) == ""
    assert after(2) == "[0/9] trial 0: epoch 1 of 12, step 40 of 900, about 7 min left\n"
    assert after(27) == ""
    line.on_trial_result(0, [], trials[0], {"epoch": 1})
    for trial in trials[1:]:
        line.on_trial_start(0, [], trial)
    assert after(4) == (
        "[0/9] trial 0: epoch 2 of 12, no step yet; trial 1: epoch 1 of 12, no step yet; "
        "trial 2: epoch 1 of 12, no step yet; and 2 more · in all about 77 min left\n"
    )
    ray.get(train.remote(0, Told(2, 1, 900, 50.0)))
    assert after(29) == ""
    assert "trial 0: epoch 2 of 12, step 1 of 900, about 50 s left; trial 1:" in after(2)
