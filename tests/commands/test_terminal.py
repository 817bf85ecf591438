"""Whatever the terminal and the locale: in processes of their own, as these are settled when Python starts."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from raygap.called import command
from raygap.commands import sweep
from raygap.search.job import Outcome
from raygap.search.plan import Plan

REPOSITORY = Path(__file__).parents[2]


def call(*words: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, timeout=120)


def test_an_ascii_terminal_gets_what_it_can_show() -> None:
    said = "import sys, raygap.commands; print('+1.5 ± 2.6 · café → \\udce9 ✓'); print('—', file=sys.stderr)"
    shown = call("-c", said, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == b"+1.5 +- 2.6 - cafe -> ? ?\n"
    assert shown.stderr == b"-\n"
    help_text = call(str(REPOSITORY / "launch" / "best.py"), "--help", PYTHONIOENCODING="ascii")
    assert help_text.returncode == 0, help_text.stderr


def test_a_locale_without_utf8_has_file_names_in_utf8_nonetheless(tmp_path: Path) -> None:
    script = tmp_path / "launch" / "look.py"
    script.parent.mkdir()
    script.write_text(
        "import os, sys, raygap.commands\n"
        "print(ascii(sys.argv[1:]), ascii(open(sys.argv[1]).read()), os.environ['PYTHONUTF8'])\n"
    )
    (tmp_path / "été").write_text("Ça", encoding="utf-8")
    found = call(str(script), str(tmp_path / "été"), "a b", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert found.returncode == 0, found.stderr
    assert found.stdout.decode().strip() == f"{[str(tmp_path / 'été'), 'a b']!a} '\\xc7a' 1"


def test_printed_commands_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "Anna's $runs (1)"
    plan = Plan(dataset="my lab.readers", root=None, trials=3, fixed={}, space={}, cache=str(tmp_path))
    study = optuna.create_study()
    sweep._print_outcome(Console(), plan, folder, tmp_path, Outcome(study, True, None, None, None))
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("go on with: ")]
    options = ["--dataset", "my lab.readers", "--out", str(folder), "--resume"]
    assert shlex.split(line.removeprefix("go on with: ")) == ["raygap", "sweep", *options]


def test_commands_are_named_as_they_were_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    named = {
        tmp_path / "launch" / "sweep.py": "python launch/report.py 'runs/a b'",
        tmp_path / "bin" / "raygap": "raygap report 'runs/a b'",
    }
    for program, said in named.items():
        monkeypatch.setattr(sys, "argv", [str(program)])
        assert command("report", "runs/a b") == said
