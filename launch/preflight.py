"""Check a Ray cluster before hours are spent on it: a line for each thing a sweep depends on, exit 1 if one fails."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("preflight")
