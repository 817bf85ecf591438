"""Print the best configuration of a sweep, as launch/train.py --config takes it."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("best")
