"""What is shown while a task is at work, on a terminal and elsewhere, and that a quiet console shows nothing."""

import io

import pytest
from rich.console import Console

from raygap.tasks import progress as module
from raygap.tasks.progress import Progress


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(monkeypatch):
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    log = io.StringIO()
    with Progress(Console(file=log)).preparing() as show:
        show(1000, 7000)  # finished before it was stopped
        for second in range(1, 71):
            now = 100.0 + second
            show(1000 + 10 * second, 7000)
    assert log.getvalue() == (
        "decoding 1300 of 7000 clips, 10.0 clips/s, 10 min left\n"
        "decoding 1600 of 7000 clips, 10.0 clips/s, 9 min left\n"
    )


def test_on_a_terminal_it_is_a_bar():
    log = io.StringIO()
    with Progress(Console(file=log, force_terminal=True, width=100)).preparing() as show:
        show(3, 12)
    assert "decoding" in log.getvalue()
    assert "3/12" in log.getvalue()


def test_progress_is_silent_unless_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for shown in (False, True):
        progress = Progress(Console(stderr=True, quiet=not shown))
        progress.say("at work")
        progress.note(["a clip is lost"])
        with progress.preparing() as bar, progress.seeds(1, 3) as report:
            report(0, {"epoch": 3, "test_accuracy": 0.5})
            assert (bar is None) is not shown
        said = capsys.readouterr()
        assert said.out == ""
        assert ("seed 0: test accuracy 0.500" in said.err, "note: a clip is lost" in said.err) == (shown, shown)
        assert bool(said.err) is shown
