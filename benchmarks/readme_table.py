"""README's table of measured results, drawn from benchmarks/results/separation.csv, between the two marks there.

python benchmarks/readme_table.py
"""

import csv
from collections import defaultdict
from pathlib import Path

from digits import _paired, _percent

HERE = Path(__file__).parent
RESULTS, README = HERE / "results" / "separation.csv", HERE.parent / "README.md"
BEGIN, END = "<!-- by benchmarks/readme_table.py -->\n", "<!-- end -->\n"
BASELINE = "unimodal_losses"
COLUMNS = {
    "gmm_scores": "scores of the training",
    "on histories": "history, weights",
    "on histories, shuffled": "history, weights, shuffled",
}
"""Of the table, and the benchmark's arms."""
DATA = {"light": "planted damage, 40 %", "heavy": "planted damage, 65 %", "clean": "nothing planted"}

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


def table(groups: dict[tuple[str, int], Accuracies]) -> list[str]:
    """Lines of Markdown: the baseline's accuracy, and the differences of the others to it, over the seeds of both."""
    lines = [f"| training clips | epochs | {BASELINE} | {' | '.join(COLUMNS)} |"]
    lines.append("|---|---|---|" + "---|" * len(COLUMNS))
    for data, words in DATA.items():
        for epochs in sorted(epochs for name, epochs in groups if name == data):
            arms = groups[data, epochs]
            base = arms.get(BASELINE, {})
            cells = [_percent(list(base.values()))]
            for arm in COLUMNS.values():
                seeds = sorted(base.keys() & arms.get(arm, {}).keys())
                if len(seeds) < 2:
                    cells.append("")
                    continue
                difference, wins, _ = _paired([arms[arm][seed] for seed in seeds], [base[seed] for seed in seeds])
                cells.append(f"{difference} ({wins})")
            lines.append(f"| {words} | {epochs} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Put the table into README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = table(read(RESULTS))
    README.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
