"""What a section of the page is made of. page.html has a macro for each, by its name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure

from raygap.errors import UserError
from raygap.tracking.report.run import Absent


@dataclass(frozen=True)
class Note:
    """A sentence. `tone`: plain, good, doubt or bad."""

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Tile:
    """A number that is to be seen first, with what it is and what to know about it."""

    title: str
    value: str
    about: str


@dataclass(frozen=True)
class Tiles:
    """Tiles side by side."""

    tiles: list[Tile]


@dataclass(frozen=True)
class Share:
    """A part of a bar: its name, count and CSS class."""

    name: str
    count: int
    look: str


@dataclass(frozen=True)
class Shares:
    """One bar whose parts are counts."""

    title: str
    parts: list[Share]


@dataclass(frozen=True)
class Setting:
    """A searched field of the best configuration. `position` in [0, 1] within its range, None for a choice."""

    name: str
    value: str
    low: str
    high: str
    position: float | None
    choices: list[str]
    at_edge: bool


@dataclass(frozen=True)
class Settings:
    """The searched fields of the best configuration."""

    settings: list[Setting]


@dataclass(frozen=True)
class Chart:
    """An interactive figure. `scroll`: pixels that it needs at least; a narrow page scrolls within the figure."""

    json: str
    height: int
    caption: str
    scroll: int = 0


@dataclass(frozen=True)
class Row:
    """Columns of blocks, side by side where there is room."""

    columns: list[list[Any]]


@dataclass(frozen=True)
class Link:
    """A cell that leads to another page, by its address as seen from this one."""

    text: str
    href: str


@dataclass(frozen=True)
class Table:
    """The header first; the last `summary` rows sum up the others. A long table scrolls, but for a `pinned` column."""

    rows: list[list[Any]]
    summary: int = 0
    sortable: bool = False
    pinned: bool = False


@dataclass(frozen=True)
class Clip:
    """A training clip: pictures as data URLs (empty: none), what it is, and its scores in [0, 1] by name."""

    frame: str
    spectrogram: str
    id: str
    label: str
    scores: dict[str, float]
    about: str


@dataclass(frozen=True)
class Clips:
    """Clips of one kind."""

    title: str
    clips: list[Clip]


@dataclass(frozen=True)
class Listing:
    """Text as it is; folded away if `title` is given."""

    text: str
    title: str = ""


Blocks = list[Note | Tiles | Shares | Settings | Chart | Row | Table | Clips | Listing]


def chart(draw: Callable[[], Figure], caption: str = "", scroll: int = 0) -> Chart | Note:
    """The figure that `draw` returns, or why there is none."""
    try:
        figure = draw()
        # "<" would let a text end the script element that holds the figure.
        content = figure.to_json().replace("<", "\\u003c")
        return Chart(content, figure.layout.height, caption, scroll)
    except Exception as error:
        return sorry(error)


def built(build: Callable[[], Blocks]) -> Blocks:
    """A section's blocks, or why there are none: one part is not worth the page."""
    try:
        return build()
    except Exception as error:
        return [sorry(error)]


def sorry(error: Exception) -> Note:
    """What the page says in place of a part that could not be made."""
    if isinstance(error, (Absent, UserError)):
        return Note(str(error))
    first = str(error).strip().partition("\n")[0]
    return Note(f"This part could not be made: {type(error).__name__}: {first}", "bad")
