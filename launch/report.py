"""Write report.html of a sweep, and on request its report at W&B: at any time, also while it is at work."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("report")
