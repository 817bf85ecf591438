"""Write report.html of a sweep, and on request its report at W&B: at any time, also while it is at work.

python launch/report.py runs/demo-gmm_scores-20260101-120000
python launch/report.py runs/demo-gmm_scores-20260101-120000 --publish
"""

from pathlib import Path
from typing import Annotated

import typer

from raygap.commands.options import user_errors
from raygap.errors import UserError
from raygap.tracking.report import write_report


@user_errors()
def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    publish: Annotated[
        bool, typer.Option("--publish", help="Write a report at W&B too, or bring the one that is there up to date.")
    ] = False,
) -> None:
    """Write report.html of a sweep, and on request its report at W&B."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    try:
        print(write_report(run))
    except OSError as error:
        raise UserError(f"{run}: the report cannot be written ({error.strerror})") from None
    if publish:
        from raygap.tracking.wandb import report as wandb_report  # imports W&B's client

        print(wandb_report.publish(run))
