"""Waiting for a file system that refuses: a share that is away for a while, a full disk that somebody clears."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds for which a file system may refuse."""


def patiently(act: Callable[[], T]) -> T:
    """What `act` returns; called again every second while it raises OSError, which is raised after PATIENCE."""
    end, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            return act()
        except OSError as error:
            if time.monotonic() > end:
                raise
            if not told:
                logging.getLogger("raygap").warning("%s; waiting for up to %.0f s", error, PATIENCE)
                told = True
            time.sleep(1)
