"""The benchmark of methods: every method is searched alike, controls and corrections have its configurations, and the
tables of docs/results.md are drawn from what it writes."""

import csv
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stores import SMALL

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import readme_table
from digits import FIXED
from methods import comparison_on, rows_of, write_results
from separation import Data

from raygap.data.store import Store
from raygap.provenance import FACTS
from raygap.search.comparison import compare, write_comparison
from raygap.search.space import SEARCHABLE
from raygap.tracking.comparison_table import SHOWN, MethodResult

if TYPE_CHECKING:
    from raygap.search.job import Outcome


@pytest.mark.parametrize("epochs", [20, 60])
def test_every_method_has_the_same_search_in_proportion_to_the_training(small_store: Store, epochs: int) -> None:
    data = Data("light", small_store, FIXED, None)
    plans = comparison_on(data, SEARCHABLE, 30, 8, epochs).plans()
    for plan in plans.values():
        config = plan.check()
        assert (config.epochs, config.prepare.sample_rate, config.model.width) == (epochs, 8000, 8)
        assert config.select_epoch == "last"
        assert (plan.trials, plan.test_seeds, plan.stopper, plan.sampler) == (30, 8, "asha", "tpe")
        assert plan.space["optimizer.lr"] == {"loguniform": [0.0005, 0.2]}
        assert plan.space["optimizer.weight_decay"] == {"loguniform": [1.0e-5, 3.0e-2]}
        assert plan.fixed["optimizer.lr"] == 0.02  # where the search begins
    assert plans["relearning"].space["optimizer.schedule"] == {"choice": ["constant", "cosine"]}
    assert {plans[name].fixed["optimizer.schedule"] for name in plans} == {"cosine"}
    share = epochs / 12
    for name in ("gmm_scores", "gmm_adaptive"):
        assert plans[name].space["warmup.epochs"] == {"randint": [0, round(4 * share) + 1]}
        assert plans[name].fixed["warmup.epochs"] == round(2 * share)
    scores = plans["gmm_scores"]
    assert (scores.fixed["gap.source"], "gap.source" in scores.space, scores.pool) == ("history", False, 2)
    assert [known.plain for known in scores.known] == [True, True, False]
    assert plans["umt"].space["warmup.epochs"] == {"randint": [round(epochs / 4), epochs // 2 + 1]}


def test_rows_are_of_the_chosen_configurations_and_docs_draw_them(
    small_store: Store, finished_sweep: tuple[Path, "Outcome"], tmp_path: Path
) -> None:
    guided, outcome = tmp_path / "gmm_adaptive", finished_sweep[1]
    shutil.copytree(finished_sweep[0], guided, symlinks=True)
    assert outcome.best is not None
    assert outcome.test is not None
    searched = MethodResult("gmm_adaptive", outcome.best.value, outcome.test.rows)
    comparison = comparison_on(Data("light", small_store, SMALL, None), ("unimodal_losses",), 2, 2, 4)
    write_comparison(comparison, tmp_path)

    said: list[str] = []

    def rows() -> list:
        results = compare(comparison, tmp_path, small_store.path, lambda *told: None, said.append, quiet=True)
        both = [*results, searched]
        return [row for result in both for row in rows_of(result, tmp_path / result.method, small_store)]

    first = rows()
    assert [line.split(":")[0] for line in said if "2 trials" in line] == ["unimodal_losses"]
    said.clear()
    names = [row.result.method for row in first]
    assert names[:4] == ["unimodal_losses", *(n for n in names if n.startswith("unimodal_losses + "))]
    assert names[4] == "gmm_adaptive"
    assert names[-2:] == ["gmm_adaptive, shuffled", "gmm_adaptive, constant"]
    assert set(names[5:-2]) <= {"gmm_adaptive, best guided trial"}
    for row in first:
        assert len(row.result.seeds) == 2
        assert all(row.made[seed]["torch"] for seed in row.result.seeds)
    trained = {file: file.stat().st_mtime for file in tmp_path.rglob("metrics.parquet")}

    def shown(rows: list) -> list:
        return [{s: {n: m[n] for n in SHOWN} for s, m in row.result.seeds.items()} for row in rows]

    assert shown(rows()) == shown(first)
    assert {file: file.stat().st_mtime for file in tmp_path.rglob("metrics.parquet")} == trained
    assert not said  # what has ended is not looked at again

    page = tmp_path / "results" / "methods-digits-4.md"
    write_results("digits", 4, comparison, first, page)
    text = page.read_text(encoding="utf-8")
    assert "# Methods: digits, 4 epochs" in text
    assert "* gmm_adaptive: " in text
    with page.with_suffix(".csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2 * len(first)
    assert {row["data"] + row["epochs"] for row in written} == {"digits4"}
    assert all(row[name] for row in written for name in ("torch", "date", *SHOWN))
    assert set(FACTS) <= set(written[0])

    again = readme_table.read_methods(page.with_suffix(".csv"))
    for one, row in zip(again, first, strict=True):
        assert one.method == row.result.method
        assert [one.seeds] == shown([row])
    (docs := tmp_path / "page.md").write_text(f"Before.\n{readme_table.METHODS_BEGIN}old\n{readme_table.END}After.\n")
    for _ in range(2):
        readme_table.put(docs, readme_table.methods_table(page.parent), readme_table.METHODS_BEGIN)
    text = docs.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert text.count("digits, 4 epochs") == 1
    assert all(f"| {name} |" in text for name in names)
    difference = readme_table.differences(again, "unimodal_losses")["gmm_adaptive"]
    mean = f"{100 * difference.interval.mean:+.2f} ± {100 * difference.interval.half_width:.2f}"
    assert [line for line in text.splitlines() if "| gmm_adaptive |" in line and mean in line]

    searched = page.with_name("searches-digits-4-again.csv")
    searched.write_bytes(page.with_suffix(".csv").read_bytes())
    _, _, *rows_of_searches = readme_table.searches_table(page.parent, "digits-4", "gmm_adaptive")
    assert [line.split("|")[1].strip() for line in rows_of_searches] == ["in the table", "again", "mean"]
    assert all(f"| {mean} (" in line for line in rows_of_searches[:2])
