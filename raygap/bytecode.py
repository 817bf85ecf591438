"""Bytecode where Python may not keep any, as images often tell it with PYTHONDONTWRITEBYTECODE."""

import os
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path


def keep_bytecode() -> None:
    """Have this process, and those that it starts, keep compiled modules in ~/.cache/raygap, beside no source.

    A sweep starts processes by the dozen, and each would compile torch and Ray anew: 14 s of imports in place of 5.
    Does nothing where Python keeps its bytecode, was told where to, or finds what pip or uv has compiled, nor for who
    has no home.
    """
    home = os.path.expanduser("~")
    if not sys.dont_write_bytecode or sys.pycache_prefix or not os.path.isabs(home):
        return
    torch = find_spec("torch")
    if torch and torch.origin and Path(cache_from_source(torch.origin)).exists():
        return
    sys.pycache_prefix = str(Path(home, ".cache", "raygap", "bytecode"))
    sys.dont_write_bytecode = False
    # Ray's processes inherit these.
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # python -B has none
