"""In processes of their own, with a torch that imports in no time."""

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

SAID = "import raygap, subprocess, sys; print(sys.pycache_prefix, flush=True); import torch; "
SAID += "subprocess.run([sys.executable, '-c', 'import sys; print(sys.pycache_prefix, sys.dont_write_bytecode)'])"


@pytest.fixture
def torch(tmp_path: Path) -> Path:
    """Its folder, beside which another is HOME."""
    (tmp_path / "packages" / "torch").mkdir(parents=True)
    (tmp_path / "packages" / "torch" / "__init__.py").write_text("")
    return tmp_path / "packages" / "torch"


def said(torch: Path, *options: str, **more: str) -> list[str]:
    """Where a process with these options of Python keeps bytecode, and where the one that it starts does."""
    ours = {"PYTHONPATH": str(torch.parent), "HOME": str(torch.parents[1])}
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    run = subprocess.run(
        [sys.executable, *options, "-c", SAID], env=others | ours | more, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_where_python_may_keep_none_it_goes_to_the_cache(torch: Path) -> None:
    kept = torch.parents[1] / ".cache" / "raygap" / "bytecode"
    assert said(torch, PYTHONDONTWRITEBYTECODE="1") == [str(kept), f"{kept} False"]
    assert list(kept.rglob("torch/__init__.*.pyc"))
    assert not list(torch.rglob("*.pyc"))
    assert said(torch, "-B") == [str(kept), f"{kept} False"]


def test_who_has_no_home_can_import_it(torch: Path) -> None:
    assert said(torch, PYTHONDONTWRITEBYTECODE="1", HOME="relative") == ["None", "None True"]


def test_where_there_is_some_or_it_has_its_place_nothing_changes(torch: Path) -> None:
    told = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/elsewhere"}
    assert said(torch, **told) == ["/elsewhere", "/elsewhere True"]
    assert said(torch) == ["None", "None False"]
    source = torch / "__init__.py"
    py_compile.compile(str(source), str(torch / "__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"))
    assert said(torch, PYTHONDONTWRITEBYTECODE="1") == ["None", "None True"]
