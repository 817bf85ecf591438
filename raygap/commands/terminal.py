"""Words on any terminal, names of files in any locale: what a command says must not end it."""

import codecs
import io
import os
import sys
import unicodedata
from pathlib import Path

PLAIN = {"±": "+-", "·": "-", "—": "-", "–": "-", "−": "-", "→": "->", "…": "...", "’": "'", "│": "|", "─": "-"}
"""What stands for our own signs where there is only ASCII; letters lose their accents, all else is a ?."""


def speak_anywhere() -> None:
    """Have characters that the terminal cannot show replaced, and file names read as UTF-8 whatever the locale.

    A locale without UTF-8 would make other names of the same files, which no table can hold: such a command starts
    again in Python's UTF-8 mode, which the processes that it starts inherit.
    """
    codecs.register_error("raygap", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="raygap")
    program = Path(sys.argv[0]).resolve()
    # Else this is another's process, such as a test's. `python -m raygap` runs a file in the package.
    called = program.parent.name in ("launch", "raygap") or program.name == "raygap"
    if called and sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character) or letters or "?"
