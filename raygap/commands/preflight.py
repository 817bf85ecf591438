"""Check a Ray cluster before hours are spent on it: a line for each thing a sweep depends on, exit 1 if one fails.

RAY_ADDRESS=auto python launch/preflight.py --storage /shared/raygap
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from raygap.cluster.preflight import check_cluster
from raygap.commands.options import Cache, user_errors
from raygap.data.prepare import default_cache
from raygap.storage import split_storage


@user_errors()
def main(
    storage: Annotated[
        str, typer.Option(help="Folder that will hold the runs, which all nodes must share, or an object store.")
    ],
    cache: Cache = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="Folder of the data set, or a manifest CSV; may be repeated.")
    ] = None,
) -> None:
    """Check a Ray cluster before hours are spent on it."""
    folder, kept_at = split_storage(storage)
    folders = {"storage": folder, "cache": cache or default_cache()} if folder else {}
    failed = False
    for check in check_cluster(folders, kept_at, root or []):
        failed |= not check.passed
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.about}", flush=True)
    sys.exit(1 if failed else 0)
