"""report.html of a comparison: which methods beat the baseline, at what cost, and each one's own report."""

from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from raygap.called import command
from raygap.config import load_yaml
from raygap.errors import UserError
from raygap.plugins import file_name
from raygap.tracking.comparison_outcome import chosen_method, clear, main_baseline, outcome, reached
from raygap.tracking.comparison_table import (
    BASELINES,
    MethodResult,
    budget_in_words,
    critical_difference,
    differences,
    friedman,
    legend,
    mean_ranks,
    read_results,
    shared_seeds,
    table,
)
from raygap.tracking.report import comparison_plots as plots
from raygap.tracking.report.blocks import (
    Blocks,
    Link,
    Listing,
    Note,
    Row,
    Table,
    Tile,
    Tiles,
    built,
    chart,
)
from raygap.tracking.report.page import Section, render
from raygap.tracking.report.run import Absent
from raygap.tracking.run_folder import COMPARISON, REPORT, write_text
from raygap.tracking.worth import points


class Compared:
    """A comparison's folder, which may be unfinished or at work; a property raises Absent or what reading met."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def asked(self) -> dict[str, Any]:
        """comparison.yaml."""
        return load_yaml(self.folder / COMPARISON)

    @cached_property
    def results(self) -> list[MethodResult]:
        """Of the methods that have ended; at least one."""
        found = read_results(self.folder)
        if not found:
            raise Absent("No method has been searched to its end yet.")
        return found

    @property
    def tested(self) -> list[MethodResult]:
        """Those with a test result; at least one."""
        found = [result for result in self.results if result.seeds]
        if not found:
            raise Absent("No method has a test result.")
        return found

    @property
    def budget(self) -> str:
        """Of a method's search, in words."""
        return budget_in_words(self.asked["trials"], self.asked["budget"])


def write_comparison_report(folder: Path) -> Path:
    """Write report.html into a comparison's folder, whole or not at all, and return its path.

    A comparison may be at work there. Raises UserError if the folder holds none, OSError if the page cannot be written.
    """
    if not (folder / COMPARISON).exists():
        raise UserError(f"{folder}: holds no comparison ({COMPARISON} is missing)")
    compared = Compared(folder)
    parts = [
        ("outcome", "Outcome", "Outcome", _outcome),
        ("differences", "Differences", "How far ahead of the baseline, paired by test seed", _differences),
        ("ranks", "Ranks", "Ranks on test", _ranks),
        ("cost", "Cost", "Accuracy and what the search cost", _cost),
        ("modalities", "Modalities", "Each modality alone, on test", _modalities),
        ("validation", "Validation", "Validation and test", _validation),
        ("methods", "Methods", "All numbers, and each method's own report", _methods),
        ("again", "Go on", "Go on from here", _again),
    ]
    made = [Section(name, short, title, built(partial(build, compared))) for name, short, title, build in parts]
    about = built(lambda: [Note(f"{len(compared.asked['methods'])} methods on {compared.asked['dataset']}")])
    words = [block.text for block in about if isinstance(block, Note)]
    words.append(datetime.now().strftime("written %Y-%m-%d %H:%M"))
    write_text(folder / REPORT, render("raygap comparison", folder.resolve().name, " · ".join(words), made))
    return folder / REPORT


def _outcome(compared: Compared) -> Blocks:
    results, asked = compared.results, compared.asked
    waiting = [method for method in asked["methods"] if method not in [result.method for result in results]]
    chosen, baseline = chosen_method(results), main_baseline(results)
    tiles = []
    if chosen:
        value = reached(chosen) if chosen.seeds else "–"
        about = f"test accuracy over {len(chosen.seeds)} fresh seeds" if chosen.seeds else "not tested"
        tiles.append(Tile(f"Chosen on validation: {chosen.method}", value, about))
    if chosen and baseline and (difference := differences(results, baseline).get(chosen.method)):
        about = f"paired, ahead on {difference.wins} of {difference.seeds} seeds"
        tiles.append(Tile(f"To {baseline}", points(difference.interval.mean, difference, "+"), f"points, {about}"))
    tiles.append(Tile("Budget a method", compared.budget.split()[0], f"{compared.budget.partition(' ')[2]}"))
    tiles.append(Tile("Methods", f"{len(results)} of {len(asked['methods'])}", "searched to the end"))
    found = differences(results, baseline).values() if baseline else ()
    won = any(clear(difference) and difference.interval.mean > 0 for difference in found)
    blocks: Blocks = [Note(outcome(results), "good" if won else "doubt"), Tiles(tiles)]
    if waiting:
        blocks.append(Note(f"Not searched yet: {', '.join(waiting)}.", "doubt"))
    if asked.get("paper"):
        blocks.append(Note("Numbers under the paper protocol were chosen on test and flatter.", "doubt"))
    return blocks


def _differences(compared: Compared) -> Blocks:
    results, main = compared.results, main_baseline(compared.results)
    if main is None:
        text = f"No baseline has a result. {' and '.join(BASELINES)} can be added: --resume, with --methods."
        return [Note(text, "doubt")]
    columns: list[Blocks] = []
    for baseline in (main, *(name for name in BASELINES if name != main)):
        if found := differences(results, baseline):
            columns.append([chart(partial(plots.forest, found, baseline))])
    if not columns:
        raise Absent(f"{main} alone has a result.")
    caption = (
        "A diamond is the mean, its line the 95 % t-interval of the differences, a dot a seed; grey where the interval "
        f"holds 0. {main} is the better baseline on validation. Intervals are not corrected for the number of methods; "
        "p in the table below is, after Holm."
        if max(len(result.seeds) for result in compared.tested) > 1
        else "One seed has no interval: what it shows may be chance."
    )
    return [Row(columns), Note(caption)]


def _ranks(compared: Compared) -> Blocks:
    found, seeds = mean_ranks(compared.tested), len(shared_seeds(compared.tested))
    if len(found) < 2 or seeds < 2:
        raise Absent("Ranks need two methods and two seeds that both have.")
    difference, p = critical_difference(len(found), seeds), friedman(compared.tested)
    caption = (
        f"Mean rank over {seeds} seeds that all have. Methods within the bar cannot be told from the best one "
        "(Nemenyi's test at 5 %, Demsar 2006). The seeds are of one data set: this says nothing of another."
    )
    doubt = f"Friedman's test tells no method from another (p {p:.2f}): the order may be chance."
    return [chart(lambda: plots.ranks(found, difference), caption), *([Note(doubt, "doubt")] if p >= 0.05 else [])]


def _cost(compared: Compared) -> Blocks:
    chosen = chosen_method(compared.results)
    pictures = [[chart(partial(plots.against_cost, compared.tested, cost, chosen))] for cost in ("seconds", "epochs")]
    caption = (
        "Time of all trials added up, as if one ran at a time, and the epochs that they trained: shared warm-up counts "
        "once, what early stopping spared not at all. Point at a dot for its name."
    )
    return [Row(pictures), Note(caption)]


def _modalities(compared: Compared) -> Blocks:
    caption = (
        "Fused, and each modality alone by the network's own read-out, with 95 % intervals. A method that gains by "
        "spoiling the stronger modality shows here."
    )
    return [chart(lambda: plots.modalities(compared.tested), caption)]


def _validation(compared: Compared) -> Blocks:
    caption = (
        "Validation accuracy of the chosen configuration, and its mean test accuracy. What was chosen by validation is "
        "flattered by it: points below the dotted line, where both are equal."
    )
    return [chart(lambda: plots.validation_and_test(compared.tested, chosen_method(compared.results)), caption)]


def _methods(compared: Compared) -> Blocks:
    header, *rows = table(compared.results)
    linked = [[_link(compared.folder, row[0]), *(_of_one_line(cell) for cell in row[1:])] for row in rows]
    notes = [Note(f"{result.method}: {note}", "doubt") for result in compared.results for note in result.notes]
    shown: list[list[Any]] = [header, *linked]
    return [Table(shown, pinned=True), Note(legend(compared.budget, compared.asked["seeds"])), *notes]


def _link(folder: Path, method: str) -> Link | str:
    name = file_name(method)
    return Link(method, f"{quote(name)}/{REPORT}") if (folder / name / REPORT).exists() else method


def _of_one_line(cell: str) -> str:
    return cell.replace(" ± ", "\u00a0±\u00a0")


def _again(compared: Compared) -> Blocks:
    folder = str(compared.folder)
    commands = {
        "go on, or add trials, seeds or methods": command("compare", "--resume", folder),
        "the best configuration of the method that validation chooses": command("best", folder),
        "write this page again, also while the comparison is at work": command("report", folder),
    }
    if chosen := chosen_method(compared.results):
        one = command("best", str(compared.folder / file_name(chosen.method)))
        commands["the best configuration of one method"] = one
    return [Listing("\n\n".join(f"# {what}\n{line}" for what, line in commands.items()))]
