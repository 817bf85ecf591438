import sys
from pathlib import Path

import pytest

from raygap.commands import app

LAUNCH = Path(__file__).parents[2] / "launch"


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["raygap", *arguments])
    app.main()


def test_every_command_is_there_under_both_names() -> None:
    modules = {file.stem for file in Path(app.__file__).parent.glob("*.py")}
    assert app.COMMANDS.keys() <= modules
    assert {file.stem for file in LAUNCH.glob("*.py")} == app.COMMANDS.keys()


def test_a_command_gets_the_options_behind_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        called(monkeypatch, "best", "no-such-run")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: no-such-run: no such run folder")


def test_without_a_command_there_is_a_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(monkeypatch)
    told = capsys.readouterr().out
    assert all(name in told for name in app.COMMANDS)
    called(monkeypatch, "--version")
    assert capsys.readouterr().out.startswith("raygap ")


def test_an_unknown_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        called(monkeypatch, "swep")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: unknown command 'swep'; did you mean sweep?\n"
