"""The tables of measured results in README and docs/results.md, from benchmarks/results.

python benchmarks/readme_table.py

separation.csv gives README's table and the first of docs/results.md, methods-<data>-<epochs>.csv that of methods,
and with them searches-<data>-<epochs>-<name>.csv, of other searches of the same, that of the searches.
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from digits import _paired, _percent

from raygap.tracking.comparison_table import ACCURACY, SHOWN, MethodResult, differences
from raygap.tracking.comparison_table import markdown as in_markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "separation.csv"
BEGIN, END = "<!-- by benchmarks/readme_table.py -->\n", "<!-- end -->\n"
METHODS_BEGIN = "<!-- methods, by benchmarks/readme_table.py -->\n"
BASELINE = "unimodal_losses"
COLUMNS = {
    "gmm_scores": "history, weights",
    "shuffled": "history, weights, shuffled",
    "pooled": "history, pooled",
    "without histories": "scores of the training",
}
"""Of the table, and the benchmark's arms; README has the first two."""
SEARCHES_BEGIN = "<!-- searches, by benchmarks/readme_table.py -->\n"
METHODS_DATA = ("digits", "drones", "demo")
CLEAR = 0.05
"""Below it, after Holm over a column, a difference of methods is in bold."""
DATA = {
    "light": "planted damage, 40 %",
    "heavy": "planted damage, 65 %",
    "clean": "nothing planted",
    "drones": "drones, nothing planted",
    "mnist": "MNIST's pictures, planted damage, 40 %",
    "demo": "the demo, planted damage, 40 %",
}
"""README has the first four."""

Accuracies = dict[str, dict[int, float]]
"""Of each arm by seed, on test."""


def read(file: Path) -> dict[tuple[str, int], Accuracies]:
    """By data set and epochs."""
    groups: dict[tuple[str, int], Accuracies] = defaultdict(lambda: defaultdict(dict))
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["test_accuracy"]:
                seeds = groups[row["data"], int(row["epochs"])][row["arm"]]
                seeds[int(row["seed"])] = float(row["test_accuracy"])
    return groups


def table(
    groups: dict[tuple[str, int], Accuracies], sets: dict[str, str], columns: dict[str, str], wins: bool
) -> list[str]:
    """Lines of Markdown: the baseline's accuracy, and the differences of the others to it, over the seeds of both."""
    lines = [f"| training clips | epochs | {BASELINE} | {' | '.join(columns)} |"]
    lines.append("|---|---|---|" + "---|" * len(columns))
    for data, words in sets.items():
        for epochs in sorted(epochs for name, epochs in groups if name == data):
            arms = groups[data, epochs]
            base = arms.get(BASELINE, {})
            cells = [_percent(list(base.values()))]
            for arm in columns.values():
                seeds = sorted(base.keys() & arms.get(arm, {}).keys())
                if len(seeds) < 2:
                    cells.append("")
                    continue
                difference, won, _ = _paired([arms[arm][seed] for seed in seeds], [base[seed] for seed in seeds])
                cells.append(f"{difference} ({won})" if wins else difference)
            lines.append(f"| {words} | {epochs} | {' | '.join(cells)} |")
    return lines


def read_methods(file: Path) -> list[MethodResult]:
    """The rows of a table of methods, as methods.py wrote them."""
    results: dict[str, MethodResult] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            result = results.setdefault(row["method"], MethodResult(row["method"]))
            if row["seed"]:
                result.seeds[int(row["seed"])] = {name: float(row[name]) for name in SHOWN}
    return list(results.values())


def methods_table(folder: Path) -> list[str]:
    """Lines of Markdown: a row a method, a column for each methods-<data>-<epochs>.csv in the folder."""
    files = {}
    for file in folder.glob("methods-*.csv"):
        data, _, epochs = file.stem.removeprefix("methods-").rpartition("-")
        files[data, int(epochs)] = file
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    columns = []
    for (data, epochs), file in sorted(files.items(), key=lambda item: (METHODS_DATA.index(item[0][0]), -item[0][1])):
        column = f"[{data}, {epochs} epochs](../benchmarks/results/{file.stem}.md)"
        columns.append(column)
        results = read_methods(file)
        base = next(result for result in results if result.method == BASELINE)
        rows[BASELINE][column] = _percent([seed[ACCURACY] for seed in base.seeds.values()])
        for method, found in differences(results, BASELINE).items():
            interval = found.interval
            mean = f"{100 * interval.mean:+.2f} ± {100 * interval.half_width:.2f}"
            clear = found.t_test < CLEAR
            rows[method][column] = f"{f'**{mean}**' if clear else mean} ({found.wins} of {found.seeds})"
    methods = [name for name in rows if not _made_of(name)]
    order = sorted(rows, key=lambda name: methods.index(_made_of(name) or name))
    body = [[name, *(rows[name].get(column, "") for column in columns)] for name in order]
    return in_markdown([["method", *columns], *body]).splitlines() if columns else []


def searches_table(folder: Path, of: str, guided: str = "gmm_scores") -> list[str]:
    """Lines of Markdown: a row a search of `of`, <data>-<epochs>: that of the table, and each searches-<of>-<name>.csv;
    and of their means, whose intervals are over searches.

    Where a search chose a plain trial, its best guided one is what stands against the control.
    """
    others = {file.stem.removeprefix(f"searches-{of}-"): file for file in sorted(folder.glob(f"searches-{of}-*.csv"))}
    lines = [["search", BASELINE, guided, f"{guided} to it", "its mixture to shuffled"]]
    means: list[list[float]] = []
    for name, file in {"in the table": folder / f"methods-{of}.csv", **others}.items():
        accuracies = {r.method: [row[ACCURACY] for _, row in sorted(r.seeds.items())] for r in read_methods(file)}
        mixture = accuracies.get(f"{guided}, best guided trial", accuracies[guided])
        columns = [accuracies[BASELINE], accuracies[guided], mixture, accuracies[f"{guided}, shuffled"]]
        lines.append([name.replace("-", " "), *_search_cells(columns)])
        means.append([fmean(column) for column in columns])
    lines.append(["mean", *_search_cells([list(column) for column in zip(*means, strict=True)])])
    return in_markdown(lines).splitlines()


def _search_cells(columns: list[list[float]]) -> list[str]:
    base, guided, mixture, shuffled = columns
    pairs = (_paired(guided, base), _paired(mixture, shuffled))
    return [_percent(base), _percent(guided), *(f"{difference} ({won})" for difference, won, _ in pairs)]


def _made_of(name: str) -> str:
    """The method that a control or correction is of; empty for a method itself."""
    return next((name.partition(mark)[0] for mark in (", ", " + ") if mark in name), "")


def put(page: Path, lines: list[str], begin: str = BEGIN) -> None:
    """Between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draw all that were measured."""
    groups, results = read(RESULTS), HERE.parent / "docs" / "results.md"
    first_sets, first_columns = dict(list(DATA.items())[:4]), dict(list(COLUMNS.items())[:2])
    put(HERE.parent / "README.md", table(groups, first_sets, first_columns, wins=False))
    put(results, table(groups, DATA, COLUMNS, wins=True))
    if methods := methods_table(RESULTS.parent):
        put(results, methods, METHODS_BEGIN)
        put(results, searches_table(RESULTS.parent, "digits-60"), SEARCHES_BEGIN)


if __name__ == "__main__":
    main()
