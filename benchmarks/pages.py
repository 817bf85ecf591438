"""Pages of results: each is headed by what made it."""

from pathlib import Path

from raygap.provenance import in_words, made_by


def write_page(file: Path | None, title: str, lines: list[str]) -> None:
    """A Markdown page; None if there is to be none."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([f"# {title}\n", f"{made_line()}\n", *lines, ""]), encoding="utf-8")


def made_line() -> str:
    """What makes a page now, as a sentence."""
    return f"Made by {in_words(made_by())}."
