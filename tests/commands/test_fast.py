"""What a command says of itself and of its command line: without what takes seconds to import, in named groups."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from raygap.commands.app import COMMANDS

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "pandas", "plotly", "sklearn", "optuna", "matplotlib", "wandb"}
AT_EXIT = (
    "import atexit, sys; "
    "atexit.register(lambda: print('LOADED', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)); "
)
SPACE = "space: {loss.focuss: {uniform: [0, 1]}}"
OUT_OF_BOUNDS = "space: {loss.focus: {uniform: [-1, 1]}}"
DEMO = ("--dataset", "demo")
TO_CLUSTER = ("--address", "http://127.0.0.1:8265", "--", *DEMO)


def called(start: str, folder: Path, *arguments: str) -> tuple[int, str, set[str]]:
    """Exit code, what was said, and the packages loaded by a command that Python starts so."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    environment |= {"PYTHONPATH": str(REPOSITORY), "RAYGAP_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    command = [sys.executable, "-c", AT_EXIT + start, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    said, _, loaded = ended.stderr.rpartition("LOADED")
    return ended.returncode, ended.stdout + said, set(loaded.split())


def as_launched(name: str) -> str:
    return f"import runpy; runpy.run_path({str(REPOSITORY / 'launch' / name)!r} + '.py', run_name='__main__')"


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_loads_nothing_heavy(name: str, tmp_path: Path) -> None:
    code, said, loaded = called(
        "from raygap.commands.app import main; main()", tmp_path, *([name] if name else []), "--help"
    )
    assert code == 0, said
    assert loaded
    assert not loaded & HEAVY


def refusals() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Command, its options, and what is said of them."""
    for name in ("sweep", "train", "prepare"):
        yield name, ("--dataset", "dmeo"), "unknown data set; did you mean demo?"
        yield name, ("--dataset", "ave"), "give --root"
        yield name, (*DEMO, "--set", "prepare.frames=-3"), "prepare.frames = -3"
    yield "sweep", (*DEMO, "--no-such-option"), "No such option"
    yield "sweep", (*DEMO, "--max-quarantine", "7"), "Input should be less than or equal to 1"
    yield "sweep", (*DEMO, "--set", "prepare.framez=3"), "did you mean prepare.frames?"
    yield "sweep", ("--dataset", "ave", "--root", "nowhere"), "nowhere: no such file"
    yield "sweep", (*DEMO, "--method", "omg"), "unknown method 'omg'; did you mean"
    yield "sweep", (*DEMO, "--space", "unknown.yaml"), "did you mean loss.focus?"
    yield "sweep", (*DEMO, "--space", "bounds.yaml"), "loss.focus = -1"
    yield "sweep", (*DEMO, "--storage", "ftp://x"), "not understood"
    yield "sweep", (*DEMO, "--address", "nonsense"), "expected HOST:PORT"
    yield "sweep", (*DEMO, "--resume"), "holds no sweep of demo"
    yield "train", (*DEMO, "--set", "method=omg"), "unknown method 'omg'"
    yield "train", (*DEMO, "--config", "nowhere.yaml"), "nowhere.yaml"
    for options, said in {
        ("--dataset", "dmeo", "--methods", "joint"): "unknown data set",
        (*DEMO, "--methods", "joint,omg"): "unknown method 'omg'",
        (*DEMO, "--methods", "joint", "--set", "optimizer.lrr=1"): "did you mean optimizer.lr?",
        (*DEMO, "--methods", "joint", "--set", "optimizer.lr=-1"): "optimizer.lr = -1",
        ("--dataset", "ave", "--methods", "joint"): "give --root",
        ("--resume", "nowhere"): "holds no comparison",
    }.items():
        yield "compare", options, said
    yield "best", ("nowhere",), "no such run folder"
    yield "report", ("nowhere",), "no such run folder"
    yield "report", (".",), "holds no sweep"
    yield "predict", ("--checkpoint", "best.pt", "a.mp4"), "no such checkpoint"
    yield "diagnose", ("nowhere.npz",), "no such file"
    yield "diagnose", ("there.pt", "--dataset", "dmeo"), "unknown data set"
    yield "diagnose", ("there.pt",), "lies in no sweep"
    yield "preflight", ("--storage", "ftp://x"), "not understood"
    yield "submit", (), "nothing to send"
    yield "submit", ("--address", "here", "--status", "x"), "expected the dashboard's address"
    yield "submit", (*TO_CLUSTER, "--no-such-option"), "after --: No such option"
    yield "submit", (*TO_CLUSTER, "--method", "omg"), "unknown method 'omg'"


@pytest.mark.parametrize(("name", "options", "said"), list(refusals()))
def test_an_error_about_the_command_line_loads_nothing_heavy(
    name: str, options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    (tmp_path / "unknown.yaml").write_text(SPACE)
    (tmp_path / "bounds.yaml").write_text(OUT_OF_BOUNDS)
    (tmp_path / "there.pt").touch()
    code, told, loaded = called(as_launched(name), tmp_path, *options)
    assert code == 2, told
    assert said in told
    assert loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", COMMANDS)
def test_options_stand_in_named_groups(name: str) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(f"raygap.commands.{name}").main)
    options = [each for each in typer.main.get_command(app).params if each.param_type_name == "option"]
    assert all(each.rich_help_panel for each in options if each.name != "help")
