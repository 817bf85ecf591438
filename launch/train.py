"""Train one configuration on several seeds and print the test result with its interval."""

import typer

from raygap.commands.train import main

if __name__ == "__main__":
    typer.run(main)
