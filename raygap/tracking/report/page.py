"""report.html: one page that needs no network, with the outcome of a sweep, its figures, clips and trials."""

import base64
import gzip
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.offline
from jinja2 import Environment, PackageLoader

from raygap.tracking.figures import GapCheck
from raygap.tracking.report import sections
from raygap.tracking.report.blocks import Blocks, built, sorry
from raygap.tracking.report.run import Run
from raygap.tracking.run_folder import REPORT, check_sweep, write_text


@dataclass(frozen=True)
class Section:
    """A part of the page; `id` is its anchor, `short` its name in the navigation."""

    id: str
    short: str
    title: str
    blocks: Blocks


def write_report(folder: Path, checks: dict[str, GapCheck] | None = None) -> Path:
    """Write report.html into a run folder, whole or not at all, and return its path; a sweep may be at work there.

    A part of the run that is missing or damaged costs its part of the page, which then says so. `checks` are those of
    the best trial's gaps, if they are known already: they take about two seconds. Raises UserError if the folder holds
    no sweep, OSError if the page cannot be written.
    """
    check_sweep(folder)
    run = Run(folder)
    parts: list[tuple[str, str, str, Callable[[Run], Blocks]]] = [
        ("outcome", "Outcome", "Outcome", sections.outcome),
        ("test", "Test", "Test split, chosen configuration, fresh seeds", sections.test),
        ("search", "Search", "Search", sections.search),
        ("early-stopping", "Stopping", "Early stopping and shared warm-up", sections.early_stopping),
        ("best-trial", "Best trial", "Learning curves of the best trial", sections.best_trial),
        ("gap", "Gap", "Modality gap of the training clips, best trial", partial(sections.gap, checks=checks)),
        ("clips", "Clips", "Clips to look at: probably spoiled", sections.clips),
        ("problems", "Problems", "Failed and left out", sections.problems),
        ("trials", "Trials", "Trials", sections.trials),
        ("again", "Do it again", "Do it again", sections.again),
    ]
    made = [Section(name, short, title, built(partial(build, run))) for name, short, title, build in parts]
    about = [datetime.now().strftime("written %Y-%m-%d %H:%M")]
    try:
        about.insert(0, f"{run.plan['fixed']['method']} on {run.plan['dataset']}")
    except Exception as error:
        about.append(sorry(error).text)
    write_text(folder / REPORT, render("raygap sweep", folder.resolve().name, " · ".join(about), made))
    return folder / REPORT


def render(kind: str, title: str, about: str, made: list[Section]) -> str:
    """A page of these sections; `kind` and `about` stand above and below its title."""
    package = files("raygap.tracking.report")
    return _template().render(
        kind=kind,
        title=title,
        about=about,
        sections=made,
        style=(package / "page.css").read_text(encoding="utf-8"),
        script=(package / "page.js").read_text(encoding="utf-8"),
        plotly=_packed_plotly(),
        # Scripts run by this alone: text that slipped through would not.
        nonce=secrets.token_urlsafe(16),
    )


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("raygap.tracking", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = _cell
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    return environment.get_template("page.html")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def _packed_plotly() -> str:
    """plotly.js, gzipped and in base64: 2 MB instead of 5; the browser unpacks it."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode())).decode()
