"""What others must not read: variables that hold a secret, addresses with a password in them, folders of one's own."""

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASS|_PWD|CREDENTIAL|AUTH|JWT|COOKIE|SIGNATURE|CONNECTION_STR|DSN|(^|_)SAS(_|$)")
# Of Azure's it is the box that stands there.
_USERS = re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)[^/?#\s'\"]*@")


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable's name looks like that of a secret, or its value is an address with somebody's name in it.

    >>> is_secret("AWS_SECRET_ACCESS_KEY"), is_secret("PIP_INDEX_URL", "https://me:word@host"), is_secret("HOME", "/me")
    (True, True, False)
    """
    return bool(_NAMES.search(name.upper()) or _USERS.search(value))


def without_passwords(text: str) -> str:
    """A text whose addresses tell neither user nor password.

    >>> without_passwords("http://me:word@host:80/path does not answer")
    'http://host:80/path does not answer'
    """
    return _USERS.sub("", text)


def private_folder(parent: Path) -> Path:
    """A folder in one that users share, shut to all others; always the same, unless another user has taken its name.

    Ray opens the folders of its session to everybody, anew with each process: they are private below this one.
    Raises OSError.
    """
    folder = parent / f"raygap-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="raygap-", dir=parent))
    folder.chmod(0o700)
    return folder
