import io
import signal

import pytest
from rich.console import Console

from raygap.commands import options as cli
from raygap.commands.options import preparation_bar
from raygap.ending import user_errors


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(monkeypatch):
    now = 100.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    log = io.StringIO()
    with preparation_bar(Console(file=log)) as show:
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
    with preparation_bar(Console(file=log, force_terminal=True, width=100)) as show:
        show(3, 12)
    assert "decoding" in log.getvalue()
    assert "3/12" in log.getvalue()


def test_sigterm_ends_a_command_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)
    stopped = []

    @user_errors()
    def command():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)  # once more, as where it is sent to a process and to its group
            stopped.append(True)
            raise

    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 143
    assert stopped
    assert signal.getsignal(signal.SIGTERM) is before
