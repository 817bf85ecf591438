"""What a bare `pip install raygap` leaves out, and what is said where it is missed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from raygap import extras
from raygap.errors import UserError
from raygap.extras import EXTRAS, lacking, need
from raygap.tracking.wandb.callback import check_login, sweep_log

REPOSITORY = Path(__file__).parents[1]
PROJECT = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads(PROJECT)
    listed = project["project"]["optional-dependencies"]
    assert {name: tuple(Requirement(one).name for one in needed) for name, needed in listed.items()} == EXTRAS
    [all_of_them] = [one for one in map(Requirement, project["dependency-groups"]["dev"]) if one.name == "raygap"]
    assert all_of_them.extras == EXTRAS.keys(), "uv run installs them"


def test_beside_each_package_stands_a_file_that_is_there() -> None:
    listed = re.search(r"^dependencies = \[.*?^\[build-system\]", PROJECT, re.MULTILINE | re.DOTALL)
    assert listed
    files = re.findall(r"(?:raygap|tests|\.ci)/[\w./]*[\w/]", listed.group())
    assert len(files) > 30
    assert [file for file in files if not (REPOSITORY / file).exists()] == []
    packages = [line for line in listed.group().splitlines() if re.match(r'    "(?!torch|raygap)', line)]
    assert [line for line in packages if "#" not in line] == []


def test_nothing_of_an_extra_is_imported_before_it_is_needed() -> None:
    code = """
import importlib, pathlib, sys
extra = ("matplotlib", "plotly", "wandb", "wandb_workspaces")
import raygap.search.trial  # as those processes do in which trials train
assert not sys.modules.keys() & {*extra}, "what is installed is left alone, too"
for name in extra:
    sys.modules[name] = None  # as where they are not installed
for room in ("api", "cluster", "commands", "data", "search"):
    for file in pathlib.Path("raygap", room).glob("*.py"):
        importlib.import_module(f"raygap.{room}.{file.stem}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that has neither extra."""
    monkeypatch.setattr(extras, "EXTRAS", {name: ("numpy", f"no-{name}") for name in EXTRAS})


def test_a_line_names_what_is_missing(bare: None) -> None:
    assert lacking("report", "a page") == "a page needs no-report: pip install 'raygap[report]'"
    with pytest.raises(UserError, match=r"^a page needs no-report"):
        need("report", "a page")


def test_a_sweep_without_the_client_is_not_logged_and_says_so(
    bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    check_login(None)
    assert capsys.readouterr().err == "not logged: W&B's log needs no-wandb: pip install 'raygap[wandb]'\n"
    with sweep_log(tmp_path, "demo", None, None, None) as log:
        assert log is None
    check_login("disabled")
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"--wandb offline: .* needs no-wandb: .*; or --wandb disabled"):
        check_login("offline")
