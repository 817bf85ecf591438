"""Train one configuration on several seeds and print the test result with its interval."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("train")
