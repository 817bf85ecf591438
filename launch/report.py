"""Write report.html of a sweep: at any time, also while it is at work.

python launch/report.py runs/demo-gmm_scores-20260101-120000
"""

from pathlib import Path
from typing import Annotated

import typer

from raygap.cli import user_errors
from raygap.errors import UserError
from raygap.tracking.report import write_report


@user_errors()
def main(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write report.html of a sweep."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    try:
        print(write_report(run))
    except OSError as error:
        raise UserError(f"{run}: the report cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    typer.run(main)
