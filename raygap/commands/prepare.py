"""Decode a data set once into a packed store, which training then reads.

python launch/prepare.py --dataset demo
python launch/prepare.py --dataset manifest --root my_clips/ --set prepare.frames=3 --set prepare.frame_size=112
python launch/prepare.py --dataset cremad --root /data/CREMA-D --inspect
python launch/prepare.py --dataset ave --root /shared/AVE_Dataset --cache /shared/stores --address auto
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from raygap.commands.options import (
    DATA,
    MACHINE,
    Cache,
    Exclude,
    KeepOverlap,
    MaxQuarantine,
    Root,
    Splits,
    Val,
)
from raygap.data.clips import SPLITS
from raygap.data.prepared import default_cache, note_source
from raygap.data.readers import READERS, read_clips
from raygap.data.readers.features import contents
from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.extras import need
from raygap.schema import from_mapping, parse_assignments
from raygap.search.ray_start import start_ray, use_cluster, which_ray
from raygap.search.space import load_space
from raygap.tasks.progress import Progress
from raygap.tasks.source import find_source, fit_of, reader_options

SHOWN = 10
"""Quarantined clips that are printed; the store lists them all."""


@user_errors()
def main(
    dataset: Annotated[str, typer.Option(help=f"One of: {', '.join(READERS)}.", rich_help_panel=DATA)],
    root: Root = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A prepare.* field; may be repeated.", rich_help_panel=DATA),
    ] = None,
    inspect: Annotated[
        bool,
        typer.Option(
            "--inspect",
            help="Print what the store holds, and write a page with some clips of media.",
            rich_help_panel=DATA,
        ),
    ] = False,
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh",
            help="Make the store anew, even if the media seem to be those it was made of.",
            rich_help_panel=DATA,
        ),
    ] = False,
    cache: Cache = None,
    splits: Splits = None,
    val: Val = None,
    keep_overlap: KeepOverlap = False,
    exclude: Exclude = None,
    max_quarantine: MaxQuarantine = 0.05,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes; with --address, tasks at a time.",
            show_default="one a core",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Spread the work over this Ray cluster (auto: the one on this machine); needs a shared disk.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
) -> None:
    """Decode a data set once into a packed store, and print where it lies."""
    fields = parse_assignments(assignments or [])
    for field in fields:
        if not field.startswith("prepare."):
            raise UserError(f"--set {field}: preparation takes only prepare.* fields; leave it out")
    settings = from_mapping(load_space(dataset, None, None).fixed | fields, "--set").prepare
    if inspect and settings.input == "media":
        need("report", "--inspect")
    cache = cache or default_cache()
    root, reader = find_source(dataset, root, reader_options(splits, val, keep_overlap, exclude), cache)
    clip_list = read_clips(dataset, root, reader)
    if address:
        use_cluster(address)
    fit = fit_of(dataset, (root, reader), cache, anew=refresh)
    settings = from_mapping(load_space(dataset, None, None, fit).fixed | fields, "--set").prepare
    from raygap.data.inspection import PAGE, feature_tables, oddities, tables, write_page
    from raygap.data.prepare import prepare
    from raygap.data.store import QUARANTINED, Store
    from raygap.tasks.remarks import on_silence

    progress = Progress(Console())
    progress.note(list(fit.lines) if fit else [])
    if address:
        typer.echo(f"decoding {which_ray()}")
        start_ray()
    try:
        with progress.preparing() as bar:
            path = prepare(
                clip_list,
                settings,
                cache,
                max_quarantine=max_quarantine,
                workers=workers,
                on_ray=address is not None,
                refresh=refresh,
                progress=bar,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on with what is decoded")
        raise
    if root:
        note_source(cache, dataset, root, reader)
    store = Store.open(path)
    header = store.header
    counts = ", ".join(f"{header['counts'][split]} {split}" for split in SPLITS)
    typer.echo(f"store: {path}\nclips: {counts}; {len(header['class_names'])} classes")
    for note in header["notes"][len(clip_list.notes) :]:  # the reader's own were told before
        typer.echo(f"note: {note}")
    for clip in header["quarantined"][:SHOWN]:
        typer.echo(f"quarantined: {clip['id']}: {clip['reason']}")
    progress.note(on_silence(store, settings))
    if len(header["quarantined"]) > SHOWN:
        typer.echo(f"quarantined: {len(header['quarantined'])} in all, listed in {path / QUARANTINED}")
    for what, clips in oddities(store).items():
        others = "" if inspect else "; --inspect lists them"
        typer.echo(f"worth a look: {len(clips)} of {len(store.labels)} clips: {what} (such as {clips[0][0]}{others})")
    if inspect and store.features:
        _print_tables(({"What is there": contents(root)} if dataset == "features" else {}) | feature_tables(store))
    elif inspect:
        _print_tables(tables(store))
        typer.echo(f"page: {write_page(store, path / PAGE)}")


def _print_tables(tables: dict[str, list[list[str]]]) -> None:
    for title, (header, *rows) in tables.items():
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        Console(markup=False).print(table)
