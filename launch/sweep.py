"""Search a method's configuration on a data set; ends with the best one and its test result over fresh seeds."""

import typer

from raygap.commands.sweep import main

if __name__ == "__main__":
    typer.run(main)
