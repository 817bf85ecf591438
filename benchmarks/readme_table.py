"""The table of measured results in README and docs/results.md, from benchmarks/results/separation.csv.

python benchmarks/readme_table.py
"""

import csv
from collections import defaultdict
from pathlib import Path

from digits import _paired, _percent

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "separation.csv"
BEGIN, END = "<!-- by benchmarks/readme_table.py -->\n", "<!-- end -->\n"
BASELINE = "unimodal_losses"
COLUMNS = {
    "gmm_scores": "history, weights",
    "shuffled": "history, weights, shuffled",
    "without histories": "scores of the training",
}
"""Of the table, and the benchmark's arms; README has the first two."""
DATA = {
    "light": "planted damage, 40 %",
    "heavy": "planted damage, 65 %",
    "clean": "nothing planted",
    "drones": "drones, nothing planted",
}

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


def table(groups: dict[tuple[str, int], Accuracies], columns: dict[str, str], wins: bool) -> list[str]:
    """Lines of Markdown: the baseline's accuracy, and the differences of the others to it, over the seeds of both."""
    lines = [f"| training clips | epochs | {BASELINE} | {' | '.join(columns)} |"]
    lines.append("|---|---|---|" + "---|" * len(columns))
    for data, words in DATA.items():
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


def put(page: Path, lines: list[str]) -> None:
    """Between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draw both."""
    groups = read(RESULTS)
    put(HERE.parent / "README.md", table(groups, dict(list(COLUMNS.items())[:2]), wins=False))
    put(HERE.parent / "docs" / "results.md", table(groups, COLUMNS, wins=True))


if __name__ == "__main__":
    main()
