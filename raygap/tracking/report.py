"""report.html: one self-contained page with the outcome of a sweep, its trials and its figures."""

import base64
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from raygap.tracking.run_folder import REPORT, write_text

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; }
.wide { overflow-x: auto; } img { max-width: 100%; background: white; } pre { overflow-x: auto; }
"""


def write_report(
    folder: Path,
    title: str,
    outcome: list[str],
    test: list[list[Any]],
    trials: list[list[Any]],
    configuration: str,
    figures: dict[str, Path],
    commands: list[str],
) -> None:
    """Write the page. The first row of `test` and `trials` is the header; `figures` are PNG files by caption."""
    images = [
        f'<h2>{escape(caption)}</h2><img alt="{escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        for caption, file in figures.items()
    ]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in outcome),
        *(["<h2>Test split, chosen configuration, fresh seeds</h2>", _table(test)] if test else []),
        *images,
        "<h2>Trials</h2>",
        _table(trials),
        f"<h2>Best configuration</h2><pre>{escape(configuration)}</pre>",
        f"<h2>Do it again</h2><pre>{escape(chr(10).join(commands))}</pre></html>",
    ]
    write_text(folder / REPORT, "\n".join(parts))


def _table(rows: list[list[Any]]) -> str:
    header, *body = rows
    head = "".join(f"<th>{escape(str(cell))}" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{_cell(cell)}" for cell in row) for row in body)
    return f'<div class="wide"><table><tr>{head}{lines}</table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) and "." in value:
        with suppress(ValueError):
            value = float(value)
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
