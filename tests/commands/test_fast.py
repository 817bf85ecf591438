"""What a command says of itself and of its command line: without what takes seconds to import, in named groups."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from raygap.commands.app import COMMANDS

REPOSITORY = Path(__file__).parents[2]
HEAVY = {"torch", "ray", "pandas", "plotly", "sklearn", "optuna", "matplotlib", "wandb"}
CALLS = f"""
import importlib, json, os, runpy, sys
for name in {list(COMMANDS)}:  # once for all; what of HEAVY they load is seen by every call
    importlib.import_module("raygap.commands." + name)
for folder, script, arguments, said in json.load(sys.stdin):
    if os.fork():
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        continue
    os.chdir(folder)
    sys.argv = [script, *arguments]
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    print("LOADED", *{{name.partition('.')[0] for name in sys.modules}}, flush=True)
    os._exit(code)
"""
SPACE = "space: {loss.focuss: {uniform: [0, 1]}}"
OUT_OF_BOUNDS = "space: {loss.focus: {uniform: [-1, 1]}}"
DEMO = ("--dataset", "demo")
TO_CLUSTER = ("--address", "http://127.0.0.1:8265", "--", *DEMO)


Call = tuple[str, ...]
"""A command, "" for `raygap` itself, and its options."""


def of_a_process(folder: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    environment |= {"PYTHONPATH": str(REPOSITORY), "RAYGAP_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    return {"env": environment, "cwd": folder, "capture_output": True, "text": True}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[Call, tuple[int, str, set[str]]]:
    """Exit code, what was said, and the packages loaded by each call, in a process forked from one without HEAVY."""
    folder = tmp_path_factory.mktemp("fast")
    (folder / "unknown.yaml").write_text(SPACE)
    (folder / "bounds.yaml").write_text(OUT_OF_BOUNDS)
    (folder / "there.pt").touch()
    (folder / "console.py").write_text("from raygap.commands.app import main\nmain()\n")
    calls: list[Call] = [("", name, "--help") if name else ("", "--help") for name in (*COMMANDS, "")]
    calls += [(name, *options) for name, options, _ in refusals()]
    launched = {name: REPOSITORY / "launch" / f"{name}.py" for name in COMMANDS} | {"": folder / "console.py"}
    given = [
        (str(folder), str(launched[name]), options, str(folder / f"said-{number}"))
        for number, (name, *options) in enumerate(calls)
    ]
    process = subprocess.run([sys.executable, "-c", CALLS], input=json.dumps(given), check=True, **of_a_process(folder))
    said = [(folder / f"said-{number}").read_text().rpartition("LOADED") for number in range(len(calls))]
    codes = map(int, process.stdout.split())
    return {
        call: (code, text, set(loaded.split()))
        for call, code, (text, _, loaded) in zip(calls, codes, said, strict=True)
    }


def test_a_process_of_its_own_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print(*sorted(sys.modules))); "
        f"runpy.run_path({str(REPOSITORY / 'launch' / 'sweep.py')!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code, "--help"], **of_a_process(tmp_path))
    loaded = set(ended.stdout.splitlines()[-1].split())
    assert "raygap.commands.sweep" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_loads_nothing_heavy(name: str, answers: dict[Call, tuple[int, str, set[str]]]) -> None:
    code, said, loaded = answers[("", name, "--help") if name else ("", "--help")]
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
    yield "export", ("best.pt", "--to", "onnx"), "no such checkpoint"
    yield "export", ("there.pt", "--to", "torch", "--out", "x.onnx"), "--to torch writes .pt2"
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
    name: str, options: tuple[str, ...], said: str, answers: dict[Call, tuple[int, str, set[str]]]
) -> None:
    code, told, loaded = answers[name, *options]
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
