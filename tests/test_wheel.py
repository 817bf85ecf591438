"""The wheel, in an environment and a folder that hold nothing else."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import cache_from_source
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
UV = shutil.which("uv")

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(UV is None, reason="no uv here, which builds and installs")]


def called(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run in a folder, as somebody does who has no checkout."""
    others = ("RAY_", "WANDB_", "PYTHON", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment |= {"RAYGAP_CACHE": str(folder / "stores"), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def raygap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment with the wheel and what it needs, in the versions of uv.lock: no extra."""
    folder = tmp_path_factory.mktemp("wheel")
    lock = "--locked", "--no-dev", "--no-hashes", "--no-emit-project", "--output-file", folder / "lock.txt"
    for command in (
        ("build", "--wheel", "--out-dir", folder, REPOSITORY),
        ("export", "--quiet", "--project", REPOSITORY, *lock),
        ("venv", "--python", sys.executable, folder / "venv"),
    ):
        done = called(folder, UV, *command)
        assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    python, constraints = folder / "venv" / "bin" / "python", folder / "lock.txt"
    done = called(folder, UV, "pip", "install", "--python", python, "--constraint", constraints, wheel)
    assert done.returncode == 0, done.stderr
    take_over_bytecode(folder / "venv")
    return python.with_name("raygap")


def take_over_bytecode(environment: Path) -> None:
    """Of the packages that were compiled for this process: else each of a sweep's would compile torch and Ray anew."""
    [there] = environment.glob("lib/*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    for source in there.rglob("*.py"):
        compiled = Path(cache_from_source(here / source.relative_to(there)))
        if compiled.exists():
            (source.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copyfile(compiled, source.parent / "__pycache__" / compiled.name)


def test_the_demo_runs_from_the_wheel_alone(raygap: Path, tmp_path: Path) -> None:
    code = "from raygap.data.demo.clips import *; generate_demo(f'stores/{NAME}', clips_per_class=(6, 2, 2))"
    made = called(tmp_path, raygap.with_name("python"), "-c", code)  # of its thousand clips eighty
    assert made.returncode == 0, made.stderr
    short = "--trials", "2", "--epochs", "4", "--seeds", "1", "--concurrency", "1", "--set", "model.width=8"
    swept = called(tmp_path, raygap, "sweep", "--dataset", "demo", *short, "--name", "r")
    assert swept.returncode == 0, swept.stderr + swept.stdout
    assert "best of 2 trials" in swept.stdout
    run = tmp_path / "runs" / "r"
    assert {"best.yaml", "trials.csv", "study.journal"} <= {file.name for file in run.iterdir()}
    # Without extras a line says so, and what to call then.
    assert "not logged: W&B's log needs wandb, wandb-workspaces: pip install 'raygap[wandb]'" in swept.stderr
    [lack] = [line for line in swept.stdout.splitlines() if "raygap[report]" in line]
    assert lack.endswith(f"then: raygap report {Path('runs/r')}")
    assert not (run / "wandb").exists()

    best = called(tmp_path, raygap, "best", run)
    assert best.returncode == 0, best.stderr
    assert "method: gmm_scores" in best.stdout
    for refused, needed in {
        ("report", run): r"report.html needs matplotlib, plotly: pip install 'raygap\[report\]'",
        ("best", "team/project"): r"needs wandb, wandb-workspaces: pip install 'raygap\[wandb\]'",
        ("sweep", "--dataset", "demo", "--wandb", "offline"): r"--wandb offline: .*'raygap\[wandb\]'",
    }.items():
        done = called(tmp_path, raygap, *refused)
        assert done.returncode == 2, done.stderr
        [line] = done.stderr.splitlines()
        assert re.search(needed, line)


def test_a_sweep_is_submitted_from_the_wheel(raygap: Path, tmp_path: Path) -> None:
    code = """
import sys, zipfile, pathlib
from raygap.cluster.submission import pack
from raygap.commands.submit import CODE
pack(CODE, pathlib.Path("code.zip"))
zipfile.ZipFile("code.zip").extractall("job")
"""
    packed = called(tmp_path, raygap.with_name("python"), "-c", code)
    assert packed.returncode == 0, packed.stderr
    assert [entry.name for entry in (tmp_path / "job").iterdir()] == ["raygap"]
    python = raygap.with_name("python")
    planned = called(tmp_path / "job", python, "-m", "raygap", "sweep", "--dataset", "demo", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "loss.align_weight:" in planned.stdout  # the demo's search space is there

    address = "--address", "http://h", "--environment", "uv"
    dry = called(tmp_path, raygap, "submit", *address, "--", "--dataset", "demo", "--dry-run")
    assert "would run in the cluster: python3 -m raygap sweep --dataset demo" in dry.stdout, dry.stderr
