"""Search a method's configuration on a data set; ends with the best one and its test result over fresh seeds."""

from raygap.commands.app import run

if __name__ == "__main__":
    run("sweep")
