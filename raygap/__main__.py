"""`python -m raygap sweep`: the command `raygap` where no script of this name is on the path, as in a cluster's job."""

from raygap.commands.app import main

if __name__ == "__main__":
    main()
