"""Send a sweep to a running Ray cluster, follow its log, and fetch its best configuration and report when it ends."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("submit")
