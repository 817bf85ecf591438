"""The page that a sweep leaves: run.py reads the folder, sections.py says what is shown, page.py writes it."""

from raygap.tracking.report.page import write_report

__all__ = ["write_report"]
