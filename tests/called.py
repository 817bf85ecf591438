"""The commands as their users call them, in this process."""

import importlib
from types import ModuleType

import typer
from click.testing import Result
from typer.testing import CliRunner


def load(name: str) -> ModuleType:
    return importlib.import_module(f"raygap.commands.{name}")


def call(name: str, *arguments: object) -> Result:
    app = typer.Typer()
    app.command()(load(name).main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(result: Result) -> str:
    """The one line of a refused call."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]
