"""The examples, run as their readers run them: in an empty folder, by a Python of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from notebook import SCRIPT, notebook

HERE = Path(__file__).parents[1]
EXAMPLES = sorted((HERE / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_runs_in_an_empty_folder(example: Path, tmp_path: Path) -> None:
    own = {"RAYGAP_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(HERE), "PYTHONIOENCODING": "utf-8"}
    place = tmp_path / "empty"
    place.mkdir()
    ended = subprocess.run(
        [sys.executable, str(example)], cwd=place, env=os.environ | own, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_is_short(example: Path) -> None:
    assert 20 <= len(example.read_text(encoding="utf-8").splitlines()) <= 45


def test_the_notebook_is_in_step_with_its_script() -> None:
    written = SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == notebook(SCRIPT.read_text(encoding="utf-8")), "write it anew: python tests/notebook.py"
