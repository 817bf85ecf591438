"""One copy of a store on each machine of a cluster, for all trials that run there."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from raygap.data.store import written_once
from raygap.errors import UserError
from raygap.patience import patiently
from raygap.storage import Storage, machine_folder

DIGESTS = "sha256.json"
"""Beside a store's files in an object store, written last."""


def keep_store(store: Path, storage: Storage) -> None:
    """Copy a store to an object store, once. Waits while that refuses (see patiently)."""

    def keep() -> None:
        if DIGESTS in storage.files():
            return
        digests = {file.name: _digest(file).hex() for file in _files(store)}
        storage.push(store, digests)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            storage.push(Path(folder), [DIGESTS])

    patiently(keep)


def local_store(store: Path, storage: Storage | None = None) -> Path:
    """The store to read on this machine: `store` itself, or, where RAYGAP_LOCAL names a folder, its copy in there.

    A machine that does not have `store` takes the copy from `storage`, if given, and keeps it in RAYGAP_LOCAL or in
    the folder for temporary files.

    The first process on a machine copies, the others wait for it; a copy appears whole or not at all, and only if
    its bytes are those of the original. Set RAYGAP_LOCAL on the nodes (a fast local disk) when `store` lies on a
    network file system; without it that file system must be mounted under the same path everywhere.

    Raises UserError if the store is not there, or the local disk is too small or cannot be written.
    """
    folder = os.environ.get("RAYGAP_LOCAL")
    there = store.is_dir()
    if storage and not there:
        folder = folder or str(machine_folder() / "stores")
    elif not folder:
        return store
    copy = Path(folder) / store.name
    if copy.exists():
        return copy
    if not there and not storage:
        raise UserError(f"{store}: no such folder on this machine; keep --cache on a file system that all nodes share")
    try:
        with written_once(copy) as partial:
            if partial and there:
                _copy(store, partial)
            elif partial:
                patiently(lambda: _fetch(storage, partial))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; name another folder in RAYGAP_LOCAL") from None
    return copy


def _files(store: Path) -> list[Path]:
    return [file for file in store.iterdir() if file.is_file()]


def _check_room(needed: int, partial: Path) -> None:
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise UserError(
            f"{partial.parent}: the copy needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; make room, or "
            "let RAYGAP_LOCAL name another folder"
        )


def _fetch(storage: Storage, partial: Path) -> None:
    there = storage.files()
    if DIGESTS not in there:
        raise UserError(f"{storage.uri}: holds no whole store; start the sweep again where its data were prepared")
    _check_room(sum(info.size for info in there.values()), partial)
    storage.pull(partial, there)
    for name, digest in json.loads((partial / DIGESTS).read_text(encoding="utf-8")).items():
        if _digest(partial / name).hex() != digest:
            raise UserError(f"{partial / name}: differs from {storage.uri}; check the disk and start again")
    (partial / DIGESTS).unlink()


def _copy(store: Path, partial: Path) -> None:
    files = _files(store)
    _check_room(sum(file.stat().st_size for file in files), partial)
    for file in files:
        copy = partial / file.name
        shutil.copyfile(file, copy)
        if _digest(copy) != _digest(file):
            raise UserError(f"{copy}: differs from {file}; check the disk and start again")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
