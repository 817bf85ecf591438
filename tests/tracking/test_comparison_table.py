import csv
import io
import math
from itertools import pairwise

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from raygap.tracking.comparison_table import (
    SHOWN,
    MethodResult,
    critical_difference,
    differences,
    for_terminal,
    friedman,
    holm,
    latex,
    long_rows,
    markdown,
    mean_ranks,
    summary_rows,
    table,
)
from raygap.tracking.run_folder import write_csv


def result(method: str, accuracies: list[float], **others: object) -> MethodResult:
    seeds = {seed: dict.fromkeys(SHOWN, value) for seed, value in enumerate(accuracies, 1)}
    cost = {"trials": 10, "epochs": 120, "seconds": 90.0}
    return MethodResult(method, 0.9, seeds, cost, **others)


JOINT = result("joint", [0.50, 0.52, 0.54, 0.53])
BETTER = result("ogm_ge", [0.55, 0.56, 0.60, 0.55])
WORSE = result("mla", [0.49, 0.53, 0.50, 0.51])


def test_differences_are_paired_by_seed_and_corrected_after_holm() -> None:
    found = differences([JOINT, BETTER, WORSE], "joint")
    gains = {"ogm_ge": [0.05, 0.04, 0.06, 0.02], "mla": [-0.01, 0.01, -0.04, -0.02]}
    p = {method: stats.ttest_1samp(values, 0).pvalue for method, values in gains.items()}
    assert set(found) == {"ogm_ge", "mla"}
    assert found["ogm_ge"].interval.mean == pytest.approx(np.mean(gains["ogm_ge"]))
    assert (found["ogm_ge"].wins, found["mla"].wins) == (4, 1)
    assert found["ogm_ge"].t_test == pytest.approx(2 * p["ogm_ge"])
    assert found["mla"].t_test == pytest.approx(max(p["mla"], 2 * p["ogm_ge"]))
    # A seed that only one of them has is left out.
    partial = MethodResult("pmr", seeds={seed: JOINT.seeds[seed] for seed in (1, 3)} | {9: JOINT.seeds[1]})
    same = differences([JOINT, partial], "joint")["pmr"]
    assert (same.seeds, same.interval.mean, same.t_test, same.wilcoxon) == (2, 0, 1, 1)
    alone = MethodResult("pmr", seeds={1: JOINT.seeds[1]})
    assert math.isnan(differences([JOINT, alone], "joint")["pmr"].t_test)
    always = differences([JOINT, result("cml", [0.51, 0.53, 0.55, 0.54])], "joint")["cml"]
    assert (always.t_test, always.wilcoxon) == (0.125, 0.125)
    assert differences([BETTER], "joint") == {}


def test_holm_against_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, float("nan")])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])
    assert holm([]) == []


def test_ranks_are_averaged_over_shared_seeds_and_ties_share() -> None:
    assert mean_ranks([JOINT, BETTER, WORSE]) == pytest.approx({"ogm_ge": 1.0, "joint": 2.25, "mla": 2.75})
    tied = mean_ranks([JOINT, result("other", [0.50, 0.52, 0.54, 0.53]), MethodResult("none")])
    assert tied == {"joint": 1.5, "other": 1.5}
    assert mean_ranks([MethodResult("none")]) == {}


def test_tables_hold_every_method_even_without_a_result(tmp_path) -> None:
    failed = MethodResult("agm", notes=["no trial was complete"])
    rows = table([JOINT, BETTER, failed])
    header, *body = rows
    assert all(len(row) == len(header) for row in body)
    assert "to joint" in header
    assert "to unimodal_losses" not in header
    assert body[1][header.index("to joint")] == "+4.25 ±2.72, 4 of 4, p 0.016"
    assert body[0][1] == "52.25 ± 1.71 (±2.72)"
    assert body[2][1:] == [""] * (len(header) - 1)
    lines = markdown(rows).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    tex = latex(rows)
    assert r"ogm\_ge" in tex
    assert "%" not in tex.replace(r"\%", "")
    assert tex.count(r"\\") == 4
    write_csv(tmp_path / "s.csv", *summary_rows([JOINT, BETTER, failed]))
    of_joint, of_better, of_failed = csv.DictReader((tmp_path / "s.csv").open())
    assert float(of_joint["test_accuracy_std"]) == pytest.approx(np.std([0.50, 0.52, 0.54, 0.53], ddof=1))
    assert float(of_better["to_joint_mean"]) == pytest.approx(0.0425)
    assert (of_better["to_joint_wins"], of_better["to_joint_p_wilcoxon"], of_better["rank"]) == ("4", "0.125", "1.0")
    assert of_better["to_unimodal_losses_mean"] == of_joint["to_joint_mean"] == of_failed["rank"] == ""
    write_csv(tmp_path / "t.csv", *long_rows([JOINT, BETTER, failed]))
    read = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["method"] for row in read] == ["joint"] * 4 + ["ogm_ge"] * 4 + ["agm"]
    assert float(read[4]["test_accuracy"]) == 0.55
    assert read[-1]["notes"] == "no trial was complete"


def test_p_is_printed_as_it_is() -> None:
    for gains in ([0.0312, 0.0288, 0.0318, 0.0309], [0.03, 0.025, 0.04, 0.028], [0.0, 0.01, 0.0, -0.01]):
        other = result("mla", [0.5 + gain for gain in gains])
        base = result("joint", [0.5] * 4)
        header, _, row = table([base, other])
        p = stats.ttest_1samp(gains, 0).pvalue
        shown = row[header.index("to joint")].rpartition(", ")[2]
        assert shown == (f"p {p:.3f}" if p >= 0.001 else "p <0.001")


def test_numbers_chosen_on_test_are_labelled() -> None:
    rows = table([JOINT, result("ogm", [0.5, 0.5], paper=0.61)])
    column = rows[0].index("chosen on test (paper protocol)")
    assert [row[column] for row in rows[1:]] == ["", "61.00"]
    assert "paper" not in " ".join(table([JOINT])[0])


def test_the_critical_difference_is_that_of_demsars_tables() -> None:
    # Demsar 2006: q at 5 % for 2, 5 and 10 classifiers (table 5a); his example has 4 over 14 data sets, CD 1.25.
    for methods, q in {2: 1.960, 5: 2.728, 10: 3.164}.items():
        assert critical_difference(methods, 6) == pytest.approx(q * math.sqrt(methods * (methods + 1) / 36), rel=1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_friedmans_test_is_of_the_shared_seeds() -> None:
    extra = MethodResult("mla", seeds=WORSE.seeds | {9: WORSE.seeds[1]})
    ranks = [[2, 3, 2, 2], [1, 1, 1, 1], [3, 2, 3, 3]]
    assert friedman([JOINT, BETTER, extra]) == pytest.approx(stats.friedmanchisquare(*ranks).pvalue)
    assert math.isnan(friedman([JOINT, BETTER]))
    assert friedman([result(name, [0.5, 0.6]) for name in "abc"]) == 1


def test_a_narrow_terminal_leaves_columns_out_and_breaks_no_name() -> None:
    names = ["joint", "unimodal_losses", "a_method_of_a_long_name"]
    rows = table([result(name, [0.5, 0.6 + i / 100, 0.7]) for i, name in enumerate(names)])
    seen = []
    for width in (None, 140, 100, 80, 40, 10):
        shown, left_out = for_terminal(rows, width)
        wide = Console(width=10_000).measure(shown).maximum
        console = Console(width=max(wide, width or 0), file=io.StringIO())
        console.print(shown)
        text = console.file.getvalue()
        assert all(name in text for name in names)
        assert "60.00 ± 10.00" in text
        assert width is None or wide <= width or len(shown.columns) == 2  # method and accuracy always stand there
        seen.append(set(left_out))
    assert seen[0] == set()
    assert all(more >= fewer for fewer, more in pairwise(seen))
    assert "to joint" in seen[2]
    assert "to unimodal_losses" not in seen[3]
    [_, left_out] = for_terminal([row[:10] for row in table([JOINT, BETTER])], 60)
    assert "to joint" not in left_out  # the only baseline there is
