"""A command as commands were called: `raygap sweep` from the console script, `python launch/sweep.py` in a checkout."""

import shlex
import sys
from pathlib import Path


def command(name: str, *arguments: str) -> str:
    """A line that calls a command as this process was called, for words that say what to do next."""
    launched = Path(sys.argv[0]).resolve().parent.name == "launch"
    return shlex.join([*(("python", f"launch/{name}.py") if launched else ("raygap", name)), *arguments])
