"""Write report.html of a sweep, and on request its report at W&B: at any time, also while it is at work."""

import typer

from raygap.commands.report import main

if __name__ == "__main__":
    typer.run(main)
