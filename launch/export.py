"""Write a trained network as one file for other programs, with a model card beside it."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("export")
