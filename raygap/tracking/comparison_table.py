"""The table of a comparison: methods at equal budget, paired by seed, as Markdown, LaTeX and CSV."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from raygap.tracking.seed_results import TEST_METRICS, Interval, Paired, terminal_table

BASELINES = ("joint", "unimodal_losses")
"""Every method is compared with these, where they take part."""
ACCURACY = "test_accuracy"
SHOWN = (*TEST_METRICS, "test_gap_mean", "test_gap_absolute_mean")
PAPER = "chosen on test (paper protocol)"
RESULTS = "comparison.json"
"""What is read back of a comparison: its results, method by method."""


@dataclass
class MethodResult:
    """What a method reached with its budget on one data set."""

    method: str
    validation: float | None = None
    """Validation accuracy of the chosen configuration; None if no trial was complete."""
    seeds: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Test metrics of the chosen configuration by fresh seed."""
    cost: dict[str, float] = field(default_factory=dict)
    """Of the search: trials, stopped early, failed, epochs trained, seconds of all trials together."""
    paper: float | None = None
    """Highest test accuracy of any epoch of any trial, of a second search that chose on test."""
    notes: list[str] = field(default_factory=list)
    """What failed."""


def read_results(folder: Path) -> list[MethodResult]:
    """Those of a comparison's folder; empty before the first method has ended."""
    file = folder / RESULTS
    results = [MethodResult(**one) for one in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []
    for result in results:
        result.seeds = {int(seed): metrics for seed, metrics in result.seeds.items()}
    return results


@dataclass(frozen=True)
class Difference(Paired):
    """Of a method to a baseline over the seeds that both have."""

    t_test: float
    """p of the paired t-test, corrected after Holm over the methods; NaN for fewer than two seeds."""
    wilcoxon: float
    """p of Wilcoxon's signed-rank test, corrected likewise; with five seeds it cannot fall below 0.0625."""


def differences(results: list[MethodResult], baseline: str, metric: str = ACCURACY) -> dict[str, Difference]:
    """Of every other method to the baseline, by method; empty if the baseline has no result."""
    base = next((result.seeds for result in results if result.method == baseline), {})
    found: dict[str, Paired] = {}
    raw: dict[str, tuple[float, float]] = {}
    for result in results:
        paired = None if result.method == baseline else Paired.of(result.seeds, base, metric)
        if paired:
            found[result.method] = paired
            raw[result.method] = _p_values(np.array(paired.gains))
    t_tests, wilcoxons = (holm([p[i] for p in raw.values()]) for i in (0, 1))
    return {
        method: Difference(**vars(found[method]), t_test=t_test, wilcoxon=wilcoxon)
        for method, t_test, wilcoxon in zip(found, t_tests, wilcoxons, strict=True)
    }


def _p_values(gains: np.ndarray) -> tuple[float, float]:
    if len(gains) < 2:
        return float("nan"), float("nan")
    if not gains.any():
        return 1.0, 1.0
    import scipy  # not at the top: commands read this file before they know that they need it

    wilcoxon = float(scipy.stats.wilcoxon(gains).pvalue)
    if np.ptp(gains) < 1e-12:  # t is infinite, be there but two seeds; what the signs say is not
        return wilcoxon, wilcoxon
    return float(scipy.stats.ttest_1samp(gains, 0).pvalue), wilcoxon


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction (1979) for that many comparisons; NaN stays and does not count."""
    corrected = np.full(len(p_values), np.nan)
    order = [i for i in np.argsort(p_values) if not np.isnan(p_values[i])]
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(order) - place)))
        corrected[i] = highest
    return corrected.tolist()


def shared_seeds(results: list[MethodResult]) -> list[int]:
    """Those that all methods with a result have."""
    tested = [set(result.seeds) for result in results if result.seeds]
    return sorted(set.intersection(*tested)) if tested else []


def mean_ranks(results: list[MethodResult], metric: str = ACCURACY) -> dict[str, float]:
    """Rank of each method (1 is best, ties share), averaged over the shared seeds."""
    values = _by_seed(results, metric)
    if not values.size:
        return {}
    import scipy

    ranks = scipy.stats.rankdata(-values, axis=0).mean(axis=1)
    tested = [result.method for result in results if result.seeds]
    return {method: float(rank) for method, rank in zip(tested, ranks, strict=True)}


def _by_seed(results: list[MethodResult], metric: str) -> np.ndarray:
    """A row a method with a result, a column a seed that all of them have."""
    shared = shared_seeds(results)
    return np.array([[result.seeds[seed][metric] for seed in shared] for result in results if result.seeds])


def friedman(results: list[MethodResult], metric: str = ACCURACY) -> float:
    """p of Friedman's test that all methods rank alike over the shared seeds; NaN below three methods or two seeds."""
    values = _by_seed(results, metric)
    if len(values) < 3 or values.shape[1] < 2:
        return float("nan")
    if (values == values[0]).all():  # all tie on each seed, of which the statistic makes 0 / 0
        return 1.0
    import scipy

    return float(scipy.stats.friedmanchisquare(*values).pvalue)


def critical_difference(methods: int, seeds: int) -> float:
    """Mean ranks further apart than this differ at 5 %, by Nemenyi's test: q sqrt(k (k + 1) / 6 N).

    q is the studentized range of k methods over the root of 2, N the number of seeds; from two methods and two seeds
    on. Demsar 2006, Statistical Comparisons of Classifiers over Multiple Data Sets, whose N are data sets.
    """
    import scipy

    q = float(scipy.stats.studentized_range.ppf(0.95, methods, np.inf)) / 2**0.5
    return q * (methods * (methods + 1) / (6 * seeds)) ** 0.5


def table(results: list[MethodResult]) -> list[list[str]]:
    """For people: a header, then a row a method. Percent; mean ± standard deviation (± half width of the interval)."""
    ranks = mean_ranks(results)
    against = {baseline: differences(results, baseline) for baseline in BASELINES}
    against = {baseline: found for baseline, found in against.items() if found}
    papers = any(result.paper is not None for result in results)
    names = ["fused", "fused F1", "audio", "audio F1", "visual", "visual F1", "mean gap", "mean abs. gap"]
    header = ["method", *names, *(f"to {baseline}" for baseline in against), "rank", "validation"]
    header += [*([PAPER] if papers else []), "trials", "epochs", "minutes"]
    rows = []
    for result in results:
        cells = [result.method]
        for metric in SHOWN:
            scale = 1 if "gap" in metric else 100
            cells.append(_spread([scale * row[metric] for row in result.seeds.values()], 3 if scale == 1 else 2))
        cells += [_difference(found.get(result.method)) for found in against.values()]
        cells.append(f"{ranks[result.method]:.1f}" if result.method in ranks else "")
        cells.append(_percent(result.validation))
        cells += [_percent(result.paper)] if papers else []
        cost = result.cost
        cells += [f"{cost['trials']:.0f}", f"{cost['epochs']:.0f}", f"{cost['seconds'] / 60:.1f}"] if cost else [""] * 3
        rows.append(cells)
    return [header, *rows]


DETAILS = ("fused F1", "audio F1", "visual F1", "mean gap", "trials", "epochs", "minutes")
DISPENSABLE = ("mean abs. gap", "to joint", "visual", "audio", "validation", PAPER, "rank", "to unimodal_losses")
"""What a narrow terminal does without, in this order; but without the difference to the only baseline last."""


def for_terminal(rows: list[list[str]], width: int | None) -> tuple[Table, list[str]]:
    """The table without its details and half widths, and the columns that it had to leave out to be no wider.

    `width` in characters, None: any. No cell is broken: where the last columns are too wide, so is the table.
    """
    left_out: list[str] = []
    last = [f"to {name}" for name in reversed(BASELINES) if f"to {name}" in rows[0]][:1]
    order = [name for name in DISPENSABLE if name not in last] + last
    while True:
        kept = [i for i, name in enumerate(rows[0]) if name not in (*DETAILS, *left_out)]
        header, *body = [[row[i].split(" (±")[0] for i in kept] for row in rows]
        shown = terminal_table([[_in_two_lines(name) for name in header], *body])
        others = [name for name in order if name in header]
        if width is None or not others or Console(width=10_000).measure(shown).maximum <= width:
            return shown, left_out
        left_out.append(others[0])


def _in_two_lines(name: str) -> str:
    """A long name of a column; no method's is broken."""
    return f"to\n{name.removeprefix('to ')}" if name.startswith("to ") else name.replace(" (paper", "\n(paper")


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    interval = Interval.of(values)
    if len(values) == 1:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} ± {interval.std:.{digits}f} (±{interval.half_width:.{digits}f})"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    interval = difference.interval
    text = f"{100 * interval.mean:+.2f}"
    if difference.seeds > 1:
        text += f" ±{100 * interval.half_width:.2f}"
    p = difference.t_test
    text += f", {difference.wins} of {difference.seeds}"
    return text if np.isnan(p) else f"{text}, p <0.001" if p < 0.001 else f"{text}, p {p:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def budget_in_words(trials: int, seconds: float | None) -> str:
    """Of a method's search."""
    return f"{seconds:g} seconds of trials" if seconds else f"{trials} trials"


def legend(trials: str, seeds: int) -> str:
    """What the columns mean, in a sentence or two; `trials` says the budget."""
    return (
        f"Every method had {trials}, the same shared fields searched, and was chosen on validation; then {seeds} fresh "
        "seeds on test, the same for all. Percent: mean ± standard deviation (± half width of the 95 % t-interval). "
        "Differences are paired by seed: mean ± half width, wins, p of the paired t-test corrected after Holm."
    )


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(rows: list[list[str]]) -> str:
    """A booktabs tabular."""
    header, *body = ([_latex_cell(cell) for cell in row] for row in rows)
    lines = [" & ".join(row) + r" \\" for row in body]
    columns = "l" + "r" * (len(header) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_cell(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text.replace("±", r"$\pm$").replace("<", r"$<$")


def summary_rows(results: list[MethodResult]) -> tuple[list[str], list[list[Any]]]:
    """For programs: header and a row a method, what the table shows, unrounded and with Wilcoxon's p too."""
    ranks = mean_ranks(results)
    against = {baseline: differences(results, baseline) for baseline in BASELINES}
    header = ["method", "seeds"]
    header += [f"{metric}_{what}" for metric in SHOWN for what in ("mean", "std", "half_width")]
    of_difference = ("mean", "half_width", "wins", "seeds", "p_t_test", "p_wilcoxon")
    header += [f"to_{baseline}_{what}" for baseline in BASELINES for what in of_difference]
    header += ["rank", "val_accuracy", "paper_test_accuracy", "trials", "epochs", "seconds", "notes"]
    rows = []
    for result in results:
        row: list[Any] = [result.method, len(result.seeds)]
        for metric in SHOWN:
            values = [metrics[metric] for metrics in result.seeds.values()]
            interval = Interval.of(values) if values else None
            row += [interval.mean, interval.std, interval.half_width] if interval else [None] * 3
        for found in against.values():
            if difference := found.get(result.method):
                row += [difference.interval.mean, difference.interval.half_width, difference.wins, difference.seeds]
                row += [difference.t_test, difference.wilcoxon]
            else:
                row += [None] * len(of_difference)
        row += [ranks.get(result.method), result.validation, result.paper]
        row += [*(result.cost.get(name) for name in ("trials", "epochs", "seconds")), " ".join(result.notes)]
        rows.append(row)
    return header, rows


def long_rows(results: list[MethodResult]) -> tuple[list[str], list[list[Any]]]:
    """For programs: header and a row a method and seed, unrounded; a method without a result has a row without seed."""
    header = ["method", "seed", *SHOWN, "val_accuracy", "paper_test_accuracy", "trials", "epochs", "seconds", "notes"]
    rows = []
    for result in results:
        rest: list[Any] = [
            result.validation,
            result.paper,
            *(result.cost.get(name) for name in ("trials", "epochs", "seconds")),
        ]
        rest.append(" ".join(result.notes))
        for seed, metrics in (result.seeds or {None: {}}).items():
            rows.append([result.method, seed, *(metrics.get(name) for name in SHOWN), *rest])
    return header, rows
