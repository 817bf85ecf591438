"""Print the best configuration of a sweep, as launch/train.py --config takes it.

python launch/best.py runs/demo-gmm_scores-20260101-120000
"""

from pathlib import Path
from typing import Annotated

import typer

from raygap.cli import user_errors
from raygap.errors import UserError
from raygap.tracking.run_folder import BEST


@user_errors()
def main(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Print the best configuration of a sweep."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    if not (run / BEST).exists():
        raise UserError(f"{run}: holds no {BEST} yet; a sweep writes it when a trial is complete")
    print((run / BEST).read_text(), end="")


if __name__ == "__main__":
    typer.run(main)
