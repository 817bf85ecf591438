"""Compare methods at equal budget: a search a method, then the chosen configurations on the same fresh test seeds."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("compare")
