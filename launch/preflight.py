"""Check a Ray cluster before hours are spent on it: a line for each thing a sweep depends on, exit 1 if one fails."""

import typer

from raygap.commands.preflight import main

if __name__ == "__main__":
    typer.run(main)
