"""Print the best configuration of a sweep, as launch/train.py --config takes it."""

import typer

from raygap.commands.best import main

if __name__ == "__main__":
    typer.run(main)
