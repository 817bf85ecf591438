"""A comparison's page, read as text; test_report_browser.py looks at it in a browser."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from raygap.errors import UserError
from raygap.tracking.comparison_table import RESULTS
from raygap.tracking.report.comparison import write_comparison_report

BROKEN = "This part could not be made"


def text_of(page: Path) -> str:
    """What a reader sees, without the figures."""
    html = re.sub(r"<(script|style).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", html)).split())


def charts(page: Path) -> list[dict]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    return [json.loads(one) for one in found]


def edit(folder: Path, change) -> Path:
    results = json.loads((folder / RESULTS).read_text())
    (folder / RESULTS).write_text(json.dumps(change(results)))
    return write_comparison_report(folder)


def test_the_outcome_comes_first_and_every_method_leads_to_its_report(compared: Path) -> None:
    (compared / "gmm_scores").mkdir()
    (compared / "gmm_scores" / "report.html").touch()
    page = write_comparison_report(compared)
    text = text_of(page)
    assert BROKEN not in text
    assert text.index("is clearly better than unimodal_losses") < text.index("Chosen on validation: gmm_scores")
    assert "mla: no trial was complete" in text
    html = page.read_text(encoding="utf-8")
    assert re.findall(r'href="([^#"]+)"', html) == ["gmm_scores/report.html"]
    to_losses, to_joint, *others = charts(page)
    assert len(others) == 5  # ranks, seconds, epochs, modalities, validation
    means = {trace["y"][0]: trace["x"][0] for trace in to_losses["data"] if "error_x" in trace}
    assert next(iter(means)) == "gmm_scores"
    assert means["joint"] < 0 < means["gmm_scores"]
    assert "unimodal_losses" in [trace["y"][0] for trace in to_joint["data"]]


def test_a_comparison_that_is_unfinished_or_tells_little_has_a_page_that_says_so(compared: Path) -> None:
    page = edit(compared, lambda results: [one for one in results if one["method"] == "gmm_scores"])
    text = text_of(page)
    assert BROKEN not in text
    assert "Not searched yet: joint, unimodal_losses, gradient_blending, mla" in text
    assert "No baseline has a result" in text
    assert "Ranks need two methods and two seeds" in text
    page = edit(compared, lambda results: [one | {"seeds": dict(list(one["seeds"].items())[:1])} for one in results])
    assert BROKEN not in text_of(page)
    assert text_of(edit(compared, lambda results: [])).count("No method has been searched to its end yet") >= 6
    (compared / RESULTS).unlink()
    assert "5 methods on demo" in text_of(write_comparison_report(compared))


def test_text_from_outside_stays_text(compared: Path) -> None:
    attack = "</script><script>alert(1)</script>"
    page = edit(
        compared, lambda results: [one | {"notes": [attack], "method": one["method"] + attack} for one in results]
    )
    html = page.read_text(encoding="utf-8")
    assert attack not in html
    assert attack in text_of(page)


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no comparison"):
        write_comparison_report(tmp_path)
    assert not list(tmp_path.iterdir())
