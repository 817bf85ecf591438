"""Compare methods at equal budget: a search a method, then the chosen configurations on the same fresh test seeds."""

import typer

from raygap.commands.compare import main

if __name__ == "__main__":
    typer.run(main)
