"""How a command ends: an error in one line, Ctrl-C, SIGTERM, a reader that has had enough."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from raygap.errors import UserError
from raygap.private import without_passwords


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a UserError as one line on stderr and exit with code 2; exit with 130, as shells do, after Ctrl-C.

    SIGTERM, with which Slurm and containers announce the end, acts as Ctrl-C; the code is then 143. A context manager,
    and so a decorator too.
    """
    code = 130

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal code
        if code == 143:  # some send it to the process and once more to its group
            return
        code = 143
        interrupt = signal.getsignal(signal.SIGINT)  # Ray Tune has its own while trials run
        if not callable(interrupt):  # as in the background of a script
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, terminate) if _in_main_thread() else None
    try:
        yield
    except UserError as error:
        print(f"error: {without_passwords(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # what reads our output has had enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # as shells say it of SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(code) from None
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
