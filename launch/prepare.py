"""Decode a data set once into a packed store, which training then reads."""

import typer

from raygap.commands.prepare import main

if __name__ == "__main__":
    typer.run(main)
