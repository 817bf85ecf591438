"""Check a Ray cluster before hours are spent on it: a line for each thing a sweep depends on, exit 1 if one fails.

python launch/preflight.py --address auto --storage /shared/raygap
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from raygap.commands.options import DATA, MACHINE, Address, Cache
from raygap.data.prepared import default_cache
from raygap.ending import user_errors
from raygap.search.ray_start import use_cluster, which_ray
from raygap.storage import split_storage


@user_errors()
def main(
    storage: Annotated[
        str,
        typer.Option(
            help="Folder that will hold the runs, which all nodes must share, or an object store.",
            rich_help_panel=MACHINE,
        ),
    ],
    address: Address = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the data set, or a manifest CSV; may be repeated.", rich_help_panel=DATA),
    ] = None,
    cache: Cache = None,
) -> None:
    """Check a Ray cluster before hours are spent on it."""
    folder, kept_at = split_storage(storage)
    folders = {"storage": folder, "cache": cache or default_cache()} if folder else {}
    use_cluster(address)
    print(which_ray(), flush=True)
    from raygap.cluster.preflight import check_cluster

    failed = False
    for check in check_cluster(folders, kept_at, root or []):
        failed |= not check.passed
        print(f"{'ok  ' if check.passed else 'FAIL'} {check.about}", flush=True)
    sys.exit(1 if failed else 0)
