"""Tables that are written row by row, as CSV or parquet, whole or not at all."""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from raygap.errors import UserError

Row = dict[str, str | float | None]
ROWS_AT_ONCE = 1000
"""Rows of a parquet file that are held before they are written."""


@contextmanager
def table_writer(path: Path | None, columns: dict[str, type]) -> Iterator[Callable[[Row], None]]:
    """Yields the function that writes the next row; `columns` are str or float by name, and a row may lack some.

    CSV or parquet by the suffix, None is CSV on standard output. Raises UserError if the file cannot be written.
    """
    if path is None:
        # Data, not words: UTF-8 as in a file, though a terminal may not show it.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield _csv(sys.stdout, columns)
        return
    partial = path.with_name(f".{path.name}")
    try:
        try:
            if path.suffix == ".csv":
                with partial.open("w", newline="", encoding="utf-8") as file:
                    yield _csv(file, columns)
            else:
                yield from _parquet(partial, columns)
            partial.replace(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)


def _csv(file: TextIO, columns: dict[str, type]) -> Callable[[Row], None]:
    table = csv.DictWriter(file, list(columns), restval="")
    table.writeheader()

    def write(row: Row) -> None:
        table.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
        file.flush()

    return write


def _parquet(path: Path, columns: dict[str, type]) -> Iterator[Callable[[Row], None]]:
    types = {str: pa.string(), float: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    held: list[Row] = []
    with pq.ParquetWriter(path, schema) as file:

        def write(row: Row) -> None:
            held.append(row)
            if len(held) == ROWS_AT_ONCE:
                flush()

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(held, schema))
            held.clear()

        yield write
        flush()
