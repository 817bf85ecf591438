"""Waiting for a file system that refuses: a share that is away for a while, a full disk that somebody clears."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds for which a file system may refuse."""
PERMANENT = {
    *(errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK),
    *(errno.EPERM, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of what a file system cannot do, and would not do later either."""


def patiently(act: Callable[[], T]) -> T:
    """What `act` returns; called again every second while it raises OSError, which is raised after PATIENCE, or at once
    if it is one of PERMANENT.
    """
    end, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            return act()
        except OSError as error:
            if error.errno in PERMANENT or time.monotonic() > end:
                raise
            if not told:
                logging.getLogger("raygap").warning("%s; waiting for up to %.0f s", error, PATIENCE)
                told = True
            time.sleep(1)
