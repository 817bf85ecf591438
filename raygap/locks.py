"""Locks on files, which a killed process lets go of, on file systems that have them."""

import fcntl
import logging
from pathlib import Path
from typing import IO

from raygap.patience import PERMANENT

_told: set[Path] = set()
"""Folders without locks that were spoken of."""


def lock(file: IO[str], wait: bool = False) -> bool:
    """Lock an open file for this process, and say whether that was possible.

    Some file systems (Lustre and NFS as often mounted, shared drives) have no locks: that is said once, and the caller
    goes on without. Raises BlockingIOError if another process holds it, unless this one is to `wait`.
    """
    try:
        # flock, not lockf: it also keeps two threads of one process apart.
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in PERMANENT:
            raise
        folder = Path(file.name).parent
        if folder not in _told:
            _told.add(folder)
            logging.getLogger("raygap").warning(
                "%s: no locks here (%s), so that nothing keeps another process from the same work; start nothing twice",
                folder,
                error.strerror,
            )
        return False
    return True
