"""The examples, run as their readers run them: as scripts in an empty folder."""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook import SCRIPT, notebook

from raygap import plugins
from raygap.data.demo.clips import NAME, generate_demo
from raygap.schema import trial_schema

HERE = Path(__file__).parents[1]
EXAMPLES = sorted((HERE / "examples").glob("*.py"))


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
    monkeypatch.setattr("raygap.search.placement.nodes", lambda: [{"CPU": 1.0}])  # a process at a time
    yield tmp_path
    plugins.LOADED.clear()
    trial_schema.cache_clear()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_runs_in_an_empty_folder(
    example: Path, empty: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # As `__main__`, which processes would run again that own_clips starts to prepare: it has no guard against that.
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr()
    assert said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_is_short(example: Path) -> None:
    assert 20 <= len(example.read_text(encoding="utf-8").splitlines()) <= 45


def test_the_notebook_is_in_step_with_its_script() -> None:
    written = SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == notebook(SCRIPT.read_text(encoding="utf-8")), "write it anew: python tests/notebook.py"
