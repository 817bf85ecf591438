"""Write report.html of a sweep, or of each in a folder, and on request its report at W&B: also while it is at work.

python launch/report.py runs/demo-gmm_scores-20260101-120000
python launch/report.py runs/demo-gmm_scores-20260101-120000 --publish
"""

from pathlib import Path
from typing import Annotated

import typer

from raygap.commands.options import WANDB
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.extras import need
from raygap.tracking.run_folder import PLAN, REPORT, check_sweep

TABLE = "comparison.md"


@user_errors()
def main(
    run: Annotated[Path, typer.Argument(help="A run folder, or one that holds several, as a comparison's does.")],
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Write a report at W&B too, or bring the one that is there up to date.",
            rich_help_panel=WANDB,
        ),
    ] = False,
) -> None:
    """Write report.html of a sweep, and on request its report at W&B."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    inside = [] if (run / PLAN).exists() else sorted(file.parent for file in run.rglob(f"*/{PLAN}"))
    if not inside:
        check_sweep(run)
    need("report", REPORT)
    if publish:
        need("wandb", "--publish")
    from raygap.tracking.report.page import write_report

    for folder in inside or [run]:
        try:
            print(write_report(folder))
        except OSError as error:
            raise UserError(f"{folder}: the report cannot be written ({error.strerror})") from None
        if publish:
            from raygap.tracking.wandb import report as wandb_report  # imports W&B's client

            print(wandb_report.publish(folder))
    for table in sorted(run.rglob(TABLE)) if inside else ():
        print(f"methods side by side: {table}")
