"""Folders in an object store (s3://, gs://), for clusters whose machines share no file system."""

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from raygap.errors import UserError

if TYPE_CHECKING:  # commands check their --storage before they need pyarrow
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs")
"""Kinds of storage that pyarrow opens."""
OPTIONS = {
    *("region", "scheme", "endpoint_override", "allow_bucket_creation", "retry_limit_seconds"),
    *("force_virtual_addressing", "tls_ca_file_path", "project_id", "enable_tls", "blob_storage_authority"),
    *("dfs_storage_authority", "tenant_id", "client_id", "credential_kind", "background_writes", "user"),
    *("replication", "buffer_size", "default_block_size"),
}
"""Of pyarrow's file systems, without those that hold secrets: the URI is written to run folders and shown."""


@dataclass(frozen=True)
class Storage:
    """A folder at a URI that one of pyarrow's file systems opens; options such as ?region= stand at the URI's end.

    What a file holds there is replaced whole or not at all. Every method raises OSError when the store refuses.
    """

    uri: str

    def at(self, *parts: str) -> "Storage":
        """A folder below."""
        url = urlsplit(self.uri)
        return Storage(urlunsplit(url._replace(path=posixpath.normpath(posixpath.join(url.path or "/", *parts)))))

    def scratch(self) -> Path:
        """Where a machine works on what is kept here."""
        return machine_folder() / hashlib.sha256(self.uri.encode()).hexdigest()[:16]

    def files(self) -> dict[str, "FileInfo"]:
        """All files, by their path below this folder."""
        from pyarrow.fs import FileSelector, FileType

        files, root = _open(self.uri)
        found = files.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
        return {posixpath.relpath(info.path, root): info for info in found if info.type == FileType.File}

    def push(self, folder: Path, names: Iterable[str]) -> None:
        """Copy files from a local folder, one after the other."""
        files, root = _open(self.uri)
        for name in names:
            with (folder / name).open("rb") as source, files.open_output_stream(f"{root}/{name}") as there:
                shutil.copyfileobj(source, there, 2**20)

    def pull(self, folder: Path, names: Iterable[str]) -> None:
        """Copy files to a local folder; those that are not here are left out."""
        files, root = _open(self.uri)
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}.pulled")  # others may want it just now
            try:
                with files.open_input_stream(f"{root}/{name}") as source, partial.open("wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
            except FileNotFoundError:
                continue
            partial.replace(target)

    def pull_all(self, folder: Path, without: Container[str] = ()) -> None:
        """Copy the files whose names are not in `without` to a local folder."""
        self.pull(folder, [name for name in self.files() if posixpath.basename(name) not in without])

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not here need not be."""
        files, root = _open(self.uri)
        for name in names:
            try:
                files.delete_file(f"{root}/{name}")
            except FileNotFoundError:
                continue


@dataclass(frozen=True)
class Copies:
    """Where machines that share no folder find the store that they train on, and keep the folder that they write."""

    store: Storage
    folder: Storage

    def at(self, *parts: str) -> "Copies":
        """Of a folder below, with the same store."""
        return Copies(self.store, self.folder.at(*parts))


def machine_folder() -> Path:
    """For what need not outlive this machine; each user has one."""
    return Path(tempfile.gettempdir(), f"raygap-{os.getuid()}")


def split_storage(given: str | None) -> tuple[Path | None, Storage | None]:
    """What --storage names: a folder that all machines share, or an object store.

    Opens nothing: the store may be meant for other machines. Raises UserError for a URI of an unknown kind, or one
    that holds a secret, which run folders would give away.
    """
    if given is None:
        return None, None
    url = urlsplit(given)
    if "://" not in given and url.scheme not in SCHEMES:
        return Path(given).expanduser(), None
    if url.scheme == "file":
        return Path(url.path), None
    secret = _holds_secret(given)
    unknown = parse_qs(url.query).keys() - OPTIONS
    if secret or unknown:
        what = "holds a secret" if secret else f"{min(unknown)}= is no option that may stand there"
        raise UserError(
            f"--storage {url.scheme}://...: {what}; secrets belong into the environment (AWS_SECRET_ACCESS_KEY)"
        )
    if url.scheme not in SCHEMES or not url.netloc:
        shown = given if "@" not in given else f"{url.scheme}:..."
        raise UserError(f"--storage {shown}: not understood; give a folder, or {'://, '.join(SCHEMES)}://")
    return None, Storage(given)


def _holds_secret(uri: str) -> bool:
    """Whether somebody's name and key stand before an @ in it; the key may hold a / or ? or #, which end that part."""
    url = urlsplit(uri)
    place = unquote(url.netloc)
    options = parse_qs(url.query).items()
    in_options = any("@" in value for name, values in options if name in OPTIONS for value in values)
    named = "@" in place and url.scheme in ("s3", "gs", "gcs")  # in others it is the container that stands there
    return in_options or named or (":" in place and ("@" in unquote(uri) or not place.rpartition(":")[2].isdigit()))


@lru_cache(maxsize=64)
def _open(uri: str) -> tuple["FileSystem", str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)
