"""What others must not read: variables that hold a secret, addresses with a password in them, folders of one's own."""

import os
import re
from contextlib import suppress
from pathlib import Path

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASS|_PWD|CREDENTIAL|AUTH|JWT|COOKIE|SIGNATURE|CONNECTION_STR|DSN|(^|_)SAS(_|$)")
_USERS = re.compile(r"(?<=://)[^/?#\s'\"]*@")


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


def make_private(folder: Path) -> None:
    """Shut a folder to other users, with those in it: they may have been open for a moment.

    Folders of others are left as they are: who joins their Ray cannot shut it.
    """
    for place, _, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(place, 0o700)
