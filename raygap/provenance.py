"""What made a result: raygap's version and commit, the libraries it rests on, the processor, the day."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "ray", "optuna")
FACTS = ("raygap", "commit", "python", *PACKAGES, "cpu", "gpu", "date")
"""What made_by may say; the columns of a table."""


def made_by() -> dict[str, str]:
    """By name: raygap, commit (of a checkout; "-dirty" behind it if files differ from it), Python, each of PACKAGES,
    cpu, gpu (where torch is loaded already and sees one), date. Nothing that tells of a person or a network: results
    are passed on.
    """
    facts = {"raygap": _version("raygap"), "commit": _commit(), "python": platform.python_version()}
    facts |= {name: _version(name) for name in PACKAGES}
    facts |= {"cpu": _cpu(), "gpu": _gpu(), "date": datetime.now().isoformat(" ", "seconds")}
    return {name: value for name, value in facts.items() if value}


def in_words(facts: dict[str, str]) -> str:
    """What made_by says, in a line: versions first, then processor and day."""
    versions = [f"{name} {facts[name]}" for name in ("raygap", "commit", "python", *PACKAGES) if name in facts]
    return "; ".join([", ".join(versions), *(str(facts[name]) for name in ("gpu", "cpu", "date") if name in facts)])


def version_line() -> str:
    """For --version: raygap's version, and the commit of a checkout."""
    commit = _commit()
    return f"raygap {_version('raygap')}" + (f" ({commit})" if commit else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on the path that was never installed
        return ""


@cache
def _commit() -> str:
    """Of the checkout that this code lies in; nothing for an installed package."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / ".git").exists():  # asked first: the package may lie in somebody else's repository
        return ""
    try:
        # With --dirty git would look at every file; only raygap's own code counts.
        commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if _git(checkout, "status", "--porcelain", "--", "raygap") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _cpu() -> str:
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def _gpu() -> str:
    torch = sys.modules.get("torch")  # not imported for this: it takes seconds
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else ""
