"""Write report.html of a sweep, or of a comparison and each of its methods, also while it is at work; or at W&B.

python launch/report.py runs/demo-gmm_scores-20260101-120000
python launch/report.py runs/demo-gmm_scores-20260101-120000 --publish
python launch/report.py runs/compare-demo-20260101-120000
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from raygap.commands.options import WANDB
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.extras import need
from raygap.tracking.run_folder import COMPARISON, PLAN, REPORT, check_sweep


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
    """Write report.html of a sweep or a comparison, and on request a sweep's report at W&B."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    inside = [] if (run / PLAN).exists() else sorted(file.parent for file in run.rglob(f"*/{PLAN}"))
    compared = sorted(file.parent for file in (*run.glob(COMPARISON), *run.glob(f"*/{COMPARISON}")))
    if not inside and not compared:
        check_sweep(run)
        inside = [run]
    need("report", REPORT)
    if publish:
        need("wandb", "--publish")
    from raygap.tracking.report.comparison import write_comparison_report
    from raygap.tracking.report.page import write_report

    for folder in inside:
        _write(write_report, folder)
        if publish:
            from raygap.tracking.wandb import report as wandb_report  # imports W&B's client

            print(wandb_report.publish(folder))
    for folder in compared:
        _write(write_comparison_report, folder)


def _write(write: Callable[[Path], Path], folder: Path) -> None:
    try:
        print(write(folder))
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written ({error.strerror})") from None
