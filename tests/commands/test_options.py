import signal

import pytest

from raygap.ending import user_errors


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
