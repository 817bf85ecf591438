"""Decode a data set once into a packed store, which training then reads."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("prepare")
