"""Send a sweep to a running Ray cluster, follow its log, and fetch its best configuration and report when it ends."""

import typer

from raygap.commands.submit import main

if __name__ == "__main__":
    typer.run(main)
