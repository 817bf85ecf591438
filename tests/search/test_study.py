import resource
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.search.journal import mend_journal, open_storage
from raygap.search.plan import Sampler
from raygap.search.samplers import make_sampler
from raygap.search.scheduler import make_scheduler
from raygap.search.space import SearchSpace
from raygap.search.stopping import make_rule
from raygap.search.study import (
    ENDED,
    METRIC,
    TRIAL_NUMBER,
    check_resumed,
    check_store,
    finished_trials,
    suggested_config,
)
from raygap.search.suggestions import StudySearch
from raygap.tracking.run_folder import JOURNAL, trial_folder

SPACE = {"loss.focus": {"uniform": [0, 5]}, "warmup.epochs": {"randint": [1, 4]}}


def search(journal: Path, space: dict[str, Any] = SPACE, name: Sampler = "tpe", trials: int = 50) -> StudySearch:
    searched = SearchSpace({}, space)
    sampler = partial(make_sampler, name, searched, 0, trials, 0)
    searcher = StudySearch(searched, open_storage(journal), 4, sampler)
    searcher.scheduler = make_scheduler(searcher.study, make_rule("asha", 4), {"epochs": 4})
    return searcher


def die(searcher: StudySearch, trial_id: str) -> None:
    searcher.scheduler.given_up[trial_id] = f"ValueError: no {trial_id}; see error.txt"
    searcher.on_trial_complete(trial_id, error=True)


def report(searcher: StudySearch, trial_id: str, epochs: range, value: float = 0.5) -> None:
    for epoch in epochs:
        searcher.on_trial_result(trial_id, result(epoch, value + epoch / 100, epoch - epochs.start + 1.0))


def end(searcher: StudySearch, trial_id: str, epoch: int, value: float = 0.5) -> None:
    searcher.on_trial_complete(trial_id, result(epoch, value, 100.0))


def result(epoch: int, value: float, total: float, seconds: float = 1.0) -> dict[str, Any]:
    """As Tune tells it: `total` counts from the start of the process."""
    return {"epoch": epoch, METRIC: value, "time_total_s": total, "time_this_iter_s": seconds}


def test_how_a_trial_ended_is_told_as_it_was(tmp_path: Path) -> None:
    searcher = search(tmp_path / "journal")
    for trial_id in "abcd":
        searcher.suggest(trial_id)
        report(searcher, trial_id, range(1, 3))
    end(searcher, "a", 4, 0.8)
    end(searcher, "b", 3, 0.6)
    failed = result(2, float("nan"), 100.0) | {"error": "the loss became nan in epoch 3"}
    searcher.on_trial_complete("c", failed)
    die(searcher, "d")
    a, b, c, d = searcher.study.trials
    assert [t.state for t in (a, b, c, d)] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert a.value == 0.8
    assert b.intermediate_values == {1: 0.51, 2: 0.52, 3: 0.6}
    assert c.user_attrs["error"] == "the loss became nan in epoch 3"
    assert d.user_attrs["error"] == "ValueError: no d; see error.txt"
    assert searcher.study.best_trial.number == 0


def test_a_resumed_sweep_goes_on_with_the_trials_that_were_running(tmp_path: Path) -> None:
    first = search(tmp_path / "journal")
    begun = {trial_id: first.suggest(trial_id) for trial_id in "abc"}
    report(first, "b", range(1, 3))
    end(first, "a", 4)
    again = search(tmp_path / "journal")
    assert [again.suggest("x"), again.suggest("y")] == [begun["b"], begun["c"]]
    report(again, "x", range(1, 4), value=0.9)  # replays epochs 1 and 2
    end(again, "x", 4)
    end(again, "y", 4)
    new = again.suggest("z")
    assert new[TRIAL_NUMBER] == 3
    assert {k: v for k, v in new.items() if k != TRIAL_NUMBER} not in [
        {k: v for k, v in params.items() if k != TRIAL_NUMBER} for params in begun.values()
    ]
    trials = again.study.trials
    assert len(finished_trials(again.study)) == 3
    assert len(trials) == 4
    assert trials[1].intermediate_values == {1: 0.51, 2: 0.52, 3: 0.93, 4: 0.5}


def test_seconds_of_all_processes_and_sweeps_of_a_trial_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("raygap.search.suggestions.time.monotonic", lambda: now)
    first = search(tmp_path / "journal")
    first.suggest("a")
    report(first, "a", range(1, 4))
    report(first, "a", range(3, 5))  # another process, whose total begins anew
    again = search(tmp_path / "journal")
    again.suggest("x")
    last = result(4, 0.5, 2.5, seconds=2.5)
    again.on_trial_result("x", last)
    again.on_trial_complete("x", last)  # told twice, as where Tune stops a trial
    again.suggest("y")
    report(again, "y", range(1, 2))
    now += 60
    die(again, "y")
    assert [trial.user_attrs["seconds"] for trial in again.study.trials] == [5 + 2.5, 1 + 60]
    again.trial_seconds = 68.5
    assert again.suggest("z") == StudySearch.FINISHED


def test_a_spent_budget_stops_long_trials_too_but_lets_one_become_whole(tmp_path: Path) -> None:
    searcher = search(tmp_path / "journal")
    searcher.trial_seconds = 6.0
    for trial_id in "ab":
        searcher.suggest(trial_id)
        report(searcher, trial_id, range(1, 3))
    report(searcher, "b", range(3, 4))
    assert not searcher.out_of_budget("a", {})
    report(searcher, "a", range(3, 4))
    assert searcher.suggest("c") == StudySearch.FINISHED
    report(searcher, "b", range(4, 5))
    assert searcher.out_of_budget("a", {})
    assert not searcher.out_of_budget("b", {})  # none is complete, and it is the furthest
    end(searcher, "a", 3)
    end(searcher, "b", 4)
    assert [trial.state for trial in searcher.study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    again = search(tmp_path / "journal")
    again.trial_seconds = 11.0
    again.suggest("x")
    assert not again.out_of_budget("x", {})
    report(again, "x", range(1, 4))
    assert again.out_of_budget("x", {})


def test_a_search_whose_trials_only_die_ends_in_one_line(tmp_path: Path) -> None:
    searcher = search(tmp_path / "journal")
    for number in range(19):
        trial_id = str(number)
        searcher.suggest(trial_id)
        if number == 9:  # one that works is a reason to go on
            end(searcher, trial_id, 4)
        else:
            die(searcher, trial_id)
    searcher.suggest("20")
    die(searcher, "20")
    with pytest.raises(UserError, match=r"the last 10 trials died without a result.*--resume.*: no 20; see") as error:
        searcher.suggest("21")
    assert "\n" not in str(error.value)
    assert search(tmp_path / "journal").suggest("x")[TRIAL_NUMBER] == 20


def test_a_study_cut_off_in_mid_line_and_left_locked_opens_at_once(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    first = search(journal)
    first.suggest("a")
    end(first, "a", 4)
    first.suggest("b")
    whole = journal.read_bytes()
    for cut in range(len(whole) - 200, len(whole), 7):
        journal.write_bytes(whole[:cut])
        Path(f"{journal}.lock").symlink_to(journal)
        again = search(journal)
        assert finished_trials(again.study)[0].number == 0
        params = again.suggest("x")  # also a trial of which only some parameters were written
        assert set(params) == {*SPACE, TRIAL_NUMBER}
        end(again, "x", 4)


def test_interrupted_trials_that_are_not_gone_on_with_are_told_as_failed(tmp_path: Path) -> None:
    first = search(tmp_path / "journal")
    for trial_id in "abcd":
        first.suggest(trial_id)
    end(first, "a", 4)
    again = search(tmp_path / "journal")
    assert again.take_up(planned=2) == 1
    failed = [trial for trial in again.study.trials if trial.state == TrialState.FAIL]
    assert [trial.number for trial in failed] == [2, 3]
    assert all(trial.user_attrs["error"].startswith("interrupted") for trial in failed)
    assert again.suggest("x")[TRIAL_NUMBER] == 1
    smaller = {"loss.focus": SPACE["loss.focus"]}
    changed = search(tmp_path / "journal", smaller)
    assert changed.take_up(planned=6) == 2  # trial 1, of a space that is no longer searched, has failed, too
    assert changed.suggest("y")[TRIAL_NUMBER] == 4


def test_a_journal_that_cannot_be_written_for_a_while_gets_each_line_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "journal"
    searcher = search(journal)
    searcher.suggest("a")
    # As on a full disk: what is written ends in mid-line, with an error.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 30, limits[1]))
    whole = journal.read_bytes()

    def clear() -> None:
        while "waiting for up to" not in caplog.text:
            time.sleep(0.01)
        cut.append(journal.read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    cut: list[bytes] = []
    thread = threading.Thread(target=clear)
    thread.start()
    report(searcher, "a", range(1, 3))
    thread.join()
    end(searcher, "a", 4)
    assert cut[0].startswith(whole)
    assert len(cut[0]) == len(whole) + 30
    [trial] = search(journal).study.trials
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values == {1: 0.51, 2: 0.52, 4: 0.5}
    monkeypatch.setattr("raygap.patience.PATIENCE", 0.0)
    journal.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        searcher.suggest("b")


def verdicts(searcher: StudySearch, trial_id: str, warmup: int, value: float) -> list[str]:
    trial = SimpleNamespace(trial_id=trial_id, config={"warmup.epochs": warmup, TRIAL_NUMBER: int(trial_id)})
    said: list[str] = []
    while len(said) < 3 and "STOP" not in said:
        epoch = len(said) + 1
        said.append(searcher.scheduler.on_trial_result(None, trial, result(epoch, value, epoch)))
    return said


def test_early_stopping_waits_for_the_adaptive_stage_and_remembers(tmp_path: Path) -> None:
    first = search(tmp_path / "journal")
    assert verdicts(first, "0", 1, 0.7) == ["CONTINUE"] * 3
    assert verdicts(first, "1", 1, 0.1) == ["CONTINUE", "STOP"]
    assert verdicts(first, "2", 2, 0.1) == ["CONTINUE", "CONTINUE", "STOP"]
    for _ in range(2):  # one ends, the other is interrupted
        trial = first.study.ask({"warmup.epochs": IntDistribution(1, 1)})
        for epoch in range(1, 4):
            trial.report(0.7, epoch)
    first.study.tell(0, 0.7)
    again = search(tmp_path / "journal")
    assert verdicts(again, "1", 1, 0.7) == ["CONTINUE"] * 3  # what it tells again
    assert verdicts(again, "2", 1, 0.1) == ["CONTINUE", "STOP"]
    assert verdicts(again, "3", 2, 0.1) == ["CONTINUE", "CONTINUE", "STOP"]


def studied(journal: Path) -> list[bytes]:
    """The lines of a study of four complete trials."""
    first = search(journal)
    for trial_id in "abcd":
        first.suggest(trial_id)
        report(first, trial_id, range(1, 4))
        end(first, trial_id, 4, ord(trial_id) / 1000)
    return journal.read_bytes().splitlines(keepends=True)


def test_a_broken_line_costs_what_it_held_and_no_more(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    lines = studied(journal)
    whole = {trial.number: trial for trial in search(journal).study.trials}
    for number in range(1, len(lines)):
        journal.write_bytes(b"".join([*lines[:number], b'{"op_code": \xff\x00\n', *lines[number + 1 :]]))
        note = mend_journal(journal)
        assert note.startswith(f"{journal}: line {number + 1} cannot be read")
        trials = search(journal).study.trials
        changed = [trial.number for trial in trials if trial != whole[trial.number]]
        # Never a trial's values under another's number.
        assert len(trials) == 4
        assert len(changed) <= 1
        assert not mend_journal(journal)
    journal.write_bytes(b"".join([b"?\n", *lines[1:]]))
    with pytest.raises(UserError, match=r"journal: line 1 cannot be read.*start another sweep"):
        search(journal)


def test_what_all_failed_is_tried_again_and_what_failed_among_others_is_not(tmp_path: Path) -> None:
    first = search(tmp_path / "journal")
    assert first.take_up(planned=2) == 2
    for trial_id in "ab":
        first.suggest(trial_id)
        first.on_trial_complete(trial_id, result(0, float("nan"), 1.0) | {"error": "no room"})
    assert search(tmp_path / "journal").take_up(planned=2) == 2
    again = search(tmp_path / "journal")
    assert again.suggest("c")[TRIAL_NUMBER] == 2
    end(again, "c", 4)
    assert [trial.number for trial in finished_trials(again.study)] == [2]
    assert search(tmp_path / "journal").take_up(planned=2) == 1
    again.suggest("d")
    die(again, "d")
    assert search(tmp_path / "journal").take_up(planned=2) == 0


@pytest.mark.parametrize(
    ("fixed", "space", "message"),
    [
        ({}, {}, None),
        ({}, {"loss.focus": {"uniform": [0, 9]}}, None),
        ({}, {"model.fusion": {"choice": ["concat", "sum", "film"]}}, "was a choice of concat, sum when the sweep"),
        ({}, {"loss.focus": {"loguniform": [0.1, 5]}}, "was numbers from 0 to 5 when the sweep began"),
        ({}, {"loss.focus": {"choice": [1.0, 2.0]}}, "cannot go over to a choice of 1.0, 2.0"),
        ({"epochs": 9}, {}, "fixed: epochs = 9, but trials of this sweep had 4"),
        ({"key": "other"}, {}, "the data or their preparation have changed"),
    ],
)
def test_hand_edits_that_a_study_cannot_take_are_named(
    fixed: dict, space: dict, message: str | None, tmp_path: Path
) -> None:
    began = SPACE | {"model.fusion": {"choice": ["concat", "sum"]}}
    searcher = search(tmp_path / JOURNAL, began)
    check_store(searcher.study, "key")
    suggested = searcher.suggest("a")
    end(searcher, "a", 4)
    files = trial_folder(tmp_path, 0)
    files.mkdir(parents=True)
    config = suggested_config(suggested, {"epochs": 4})
    (files / "config.yaml").write_text(yaml.safe_dump(to_mapping(config)))
    fixed = {"epochs": 4, "key": "key"} | fixed
    key = fixed.pop("key")
    arguments = (
        tmp_path,
        "sweep.yaml",
        from_mapping(fixed | {"warmup.epochs": 1}),
        SearchSpace({}, began | space).distributions(),
        key,
    )
    if message is None:
        check_resumed(*arguments)
        return
    with pytest.raises(UserError) as error:
        check_resumed(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_trials_without_improvement_end_the_search_and_more_patience_goes_on(tmp_path: Path) -> None:
    searcher = search(tmp_path / "journal")
    searcher.patience = 2
    for trial_id, value in zip("abcd", (0.5, 0.6, 0.6, 0.4), strict=True):
        searcher.suggest(trial_id)
        end(searcher, trial_id, 4, value)
    assert searcher.suggest("e") == StudySearch.FINISHED
    assert searcher.study.user_attrs[ENDED] == "2 trials in a row have brought no improvement"
    again = search(tmp_path / "journal")
    assert not again.study.user_attrs[ENDED]
    again.patience = 3
    assert again.suggest("e")[TRIAL_NUMBER] == 4
