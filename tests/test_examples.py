"""The examples, run as their readers run them: in an empty folder; the longest by a Python of its own."""

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from notebook import SCRIPT, notebook

from raygap import plugins
from raygap.data.demo.clips import NAME, generate_demo
from raygap.schema import trial_schema

HERE = Path(__file__).parents[1]
EXAMPLES = sorted((HERE / "examples").glob("*.py"))
OWN_CLIPS = HERE / "examples" / "own_clips.py"
"""Its preparation starts processes, which a script without `if __name__ == "__main__"` must bear."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a demo data set of 80 clips in place of a thousand."""
    folder = tmp_path_factory.mktemp("cache")
    generate_demo(folder / NAME, clips_per_class=(6, 2, 2), workers=1)
    return folder


@pytest.fixture
def empty(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory; code of one's own is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYGAP_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    plugins.LOADED.clear()
    trial_schema.cache_clear()


def test_own_clips_by_a_python_of_its_own(empty: Path, ray_cluster: None) -> None:
    own = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": str(HERE), "PYTHONIOENCODING": "utf-8"}
    ended = subprocess.run(
        [sys.executable, str(OWN_CLIPS)], env=os.environ | own, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout


@pytest.mark.parametrize("example", [file for file in EXAMPLES if file != OWN_CLIPS], ids=lambda file: file.stem)
def test_runs_in_an_empty_folder(
    example: Path, empty: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_is_short(example: Path) -> None:
    assert 20 <= len(example.read_text(encoding="utf-8").splitlines()) <= 45


def test_the_notebook_is_in_step_with_its_script() -> None:
    written = SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == notebook(SCRIPT.read_text(encoding="utf-8")), "write it anew: python tests/notebook.py"
