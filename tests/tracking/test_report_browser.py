"""The page in a real browser: it renders, answers the mouse, fits a phone, follows the colour scheme, runs no text."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from raygap.tracking.report.comparison import write_comparison_report
from raygap.tracking.report.page import write_report
from raygap.tracking.report.run import Run
from raygap.tracking.spoiled import trainings_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    # On a busy machine without a GPU the browser itself may stop answering; a fault of the page would come again.
    pytest.mark.flaky(reruns=2, only_rerun="TimeoutError"),
]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def browser(playwright: Playwright) -> Iterator[Browser]:
    # Chromium refuses its sandbox to root, as whom containers run.
    browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
    yield browser
    browser.close()


class Visit:
    """A page that was opened and has drawn its figures, and what went wrong meanwhile."""

    def __init__(self, browser: Browser, file: Path, width: int, scheme: str) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.trouble: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._note_request(request.url, file))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=60_000)

    def _note_request(self, url: str, file: Path) -> None:
        if url != file.as_uri() and not url.startswith(("data:", "blob:")):
            self.trouble.append(url)


def color(page: Page, selector: str, name: str) -> str:
    return page.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']")


def brightness(rgb: str) -> float:
    return sum(int(part) for part in re.findall(r"\d+", rgb)[:3]) / 3


def check_look(visit: Visit, width: int, scheme: str) -> None:
    """All figures are drawn, nothing hides beyond the edge, and colours are the scheme's."""
    page = visit.page
    plots = page.locator(".plot").count()
    assert plots > 6
    assert page.locator(".plot .main-svg .plot-container, .plot.js-plotly-plot").count() == plots
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # Nothing hides beyond the edge either, but in what scrolls by itself.
    beyond = page.evaluate(
        "w => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, nav, pre') && "
        "e.getBoundingClientRect().right > w + 1).map(e => e.className || e.tagName)",
        width,
    )
    assert beyond == []
    dark = scheme == "dark"
    assert (brightness(color(page, "section", "backgroundColor")) < 60) == dark
    assert (brightness(color(page, ".plot .xtitle", "fill")) > 180) == dark
    assert visit.trouble == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_the_page_renders_and_fits(width: int, scheme: str, browser: Browser, finished_run: Path) -> None:
    visit = Visit(browser, finished_run / "report.html", width, scheme)
    check_look(visit, width, scheme)
    visit.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1600, "light")])
def test_a_comparisons_page_renders_and_fits(width: int, scheme: str, browser: Browser, compared: Path) -> None:
    visit = Visit(browser, write_comparison_report(compared), width, scheme)
    check_look(visit, width, scheme)
    # Titles and names of methods are whole.
    cut = visit.page.evaluate(
        "() => [...document.querySelectorAll('.plot')].flatMap(p => [...p.querySelectorAll('text')].filter(t => {"
        "const [a, b] = [t.getBoundingClientRect(), p.getBoundingClientRect()];"
        "return a.left < b.left - 1 || a.right > b.right + 1; }).map(t => t.textContent))"
    )
    assert cut == []
    visit.page.close()


def test_the_figures_follow_a_change_of_the_scheme(browser: Browser, finished_run: Path) -> None:
    visit = Visit(browser, finished_run / "report.html", 1000, "light")
    assert brightness(color(visit.page, ".plot .xtitle", "fill")) < 80
    visit.page.emulate_media(color_scheme="dark")
    visit.page.wait_for_function(
        "() => [...document.querySelectorAll('.plot .xtitle')].every(e => "
        "parseInt(getComputedStyle(e).fill.match(/[0-9]+/)[0]) > 180)"
    )
    assert visit.trouble == []
    visit.page.close()


def test_figures_and_tables_answer_the_mouse(browser: Browser, finished_run: Path) -> None:
    visit = Visit(browser, finished_run / "report.html", 1200, "light")
    page, run = visit.page, Run(finished_run)
    star = page.locator("#search .plot").first.locator(".point").last
    star.scroll_into_view_if_needed()
    star.hover(force=True)  # the layer that catches the mouse lies above
    label = page.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert f"trial {run.best.number}" in label.first.text_content()
    # The slider shows another refit.
    gap = page.locator("#gap .plot").last
    gap.scroll_into_view_if_needed()
    before = gap.locator(".barlayer").inner_html()
    # Not page.mouse.click(), which waits for ever where the browser does not answer.
    gap.locator(".slider-rail-touch-rect").click(position={"x": 2, "y": 2}, force=True)
    page.wait_for_function(
        "([e, before]) => e.innerHTML !== before", arg=[gap.locator(".barlayer").element_handle(), before]
    )
    # A click on a column sorts by it.
    table = page.locator("#trials table")
    values = lambda: [float(text) for text in table.locator("tbody td:nth-child(3)").all_inner_texts() if text]  # noqa: E731
    table.locator("th:nth-child(3)").click()
    assert values() == sorted(values())
    table.locator("th:nth-child(3)").click()
    assert values() == sorted(values(), reverse=True)
    assert visit.trouble == []
    page.close()


def test_text_from_outside_stays_text(browser: Browser, finished_run: Path, tmp_path: Path) -> None:
    attack = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">'\"&<b>"
    run = Path(shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("tune")))
    study = optuna.load_study(
        study_name="sweep", storage=JournalStorage(JournalFileBackend(str(run / "study.journal")))
    )
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"error": attack}))
    for folder in trainings_of(run, Run(run).best.number):
        ledger = pq.read_table(folder / "ledger.parquet").to_pydict()
        ledger["clip"] = [f"{name} {attack}" for name in ledger["clip"]]
        ledger["label"] = [f"{attack} {name}" for name in ledger["label"]]
        pq.write_table(pa.table(ledger), folder / "ledger.parquet")
    metrics = pq.read_table(Run(run).files / "metrics.parquet").to_pydict()
    metrics["stage"] = [attack] * len(metrics["stage"])
    pq.write_table(pa.table(metrics), Run(run).files / "metrics.parquet")
    test = next(run.glob("seeds/*/failed.csv"))
    test.write_text('seed,reason\n7,"{}"\n'.format(attack.replace('"', '""')))
    (run / "best.yaml").write_text(attack)
    visit = Visit(browser, write_report(run), 1000, "light")
    body = visit.page.inner_text("body")
    assert body.count(attack) > 5  # trial, seed, ids, labels: all shown as they are
    assert visit.page.locator("img[src=x], main b b").count() == 0
    assert visit.page.title() == "run · raygap"
    assert visit.trouble == []
    visit.page.close()
