"""One copy of a store on each machine of a cluster, for all trials that run there."""

import hashlib
import os
import shutil
from pathlib import Path

from raygap.data.store import written_once
from raygap.errors import UserError


def local_store(store: Path) -> Path:
    """The store to read on this machine: `store` itself, or, where RAYGAP_LOCAL names a folder, its copy in there.

    The first process on a machine copies, the others wait for it; a copy appears whole or not at all, and only if
    its bytes are those of the original. Set RAYGAP_LOCAL on the nodes (a fast local disk) when `store` lies on a
    network file system; without it that file system must be mounted under the same path everywhere.

    Raises UserError if the store is not there, or the local disk is too small or cannot be written.
    """
    folder = os.environ.get("RAYGAP_LOCAL")
    if not folder:
        return store
    copy = Path(folder) / store.name
    if copy.exists():
        return copy
    if not store.is_dir():
        raise UserError(f"{store}: no such folder on this machine; keep --cache on a file system that all nodes share")
    try:
        with written_once(copy) as partial:
            if partial:
                _copy(store, partial)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; name another folder in RAYGAP_LOCAL") from None
    return copy


def _copy(store: Path, partial: Path) -> None:
    files = [file for file in store.iterdir() if file.is_file()]
    needed, free = sum(file.stat().st_size for file in files), shutil.disk_usage(partial).free
    if needed > free:
        raise UserError(
            f"{partial.parent}: the copy needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, or "
            "leave RAYGAP_LOCAL unset"
        )
    for file in files:
        copy = partial / file.name
        shutil.copyfile(file, copy)
        if _digest(copy) != _digest(file):
            raise UserError(f"{copy}: differs from {file}; check the disk and start again")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
