"""How methods are compared; tests/commands/test_compare.py has a whole comparison."""

import csv
from pathlib import Path

import optuna
import pytest
from stores import SMALL

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.comparison import Comparison, compare, read_comparison, write_comparison, write_tables
from raygap.search.space import PRESETS
from raygap.tracking.comparison_table import SHOWN, MethodResult
from raygap.training.run import train


def comparison(**changes: object) -> Comparison:
    fields = {
        "dataset": "demo",
        "root": None,
        "methods": ("joint", "cml"),
        "trials": 2,
        "budget": None,
        "seeds": 2,
        "paper": False,
        "fixed": SMALL | {"epochs": 4, "warmup.epochs": 1},
        "cache": "",
    }
    return Comparison(**fields | changes)


def test_what_is_compared_is_read_back(tmp_path: Path) -> None:
    asked = comparison(budget=4.0, paper=True)
    write_comparison(asked, tmp_path)
    assert read_comparison(tmp_path) == asked


def test_a_budget_of_seconds_ends_every_search_and_is_not_spent_twice_and_the_papers_protocol_is_labelled(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    asked = comparison(methods=("joint",), trials=10_000, budget=2.0, seeds=1, paper=True, concurrency=1)
    first = compare(asked, tmp_path, small_store.path, lambda seed, metrics: None, lambda line: None)
    again = compare(asked, tmp_path, small_store.path, lambda seed, metrics: None, lambda line: None)
    # The number chosen on test is the best test accuracy of any epoch, trained on train and val.
    [best] = (tmp_path / "joint-paper").glob("trials/*/best.pt")
    config = from_mapping(load_yaml(best.parent / "config.yaml"))
    assert config.protocol == "paper"
    rows = list(train(config, small_store, tmp_path / "again"))
    assert first[0].paper == max(row["val_accuracy"] for row in rows if row["stage"] != "warmup")
    assert "PAPER PROTOCOL" in (tmp_path / "joint-paper" / "best.yaml").read_text()
    assert "paper protocol" in (tmp_path / "comparison.md").read_text()
    cost = first[0].cost
    assert 2.0 <= cost["seconds"] < 60
    assert not list(tmp_path.rglob(".trunk"))  # no method has for nothing what another has trained
    assert again[0].cost == cost
    assert sorted(again[0].seeds) == [1]


def test_the_tables_say_what_made_them(tmp_path: Path) -> None:
    seeds = {seed: dict.fromkeys(SHOWN, 0.5) for seed in (1, 2)}
    write_tables(comparison(), [MethodResult("joint", 0.5, seeds), MethodResult("umt", 0.5, seeds)], tmp_path)
    for name, rows in {"comparison.csv": 2, "seeds.csv": 4}.items():
        table = list(csv.DictReader((tmp_path / name).open(newline="")))
        assert [row["optuna"] for row in table] == [optuna.__version__] * rows
    for name in ("comparison.md", "comparison.tex"):
        assert f"optuna {optuna.__version__}" in (tmp_path / name).read_text()


def test_all_methods_are_stopped_early_by_the_same_rule() -> None:
    plans = comparison(methods=("joint", "gmm_scores"), paper=True, fixed={}, stopper="after:3").plans()
    assert {plan.stopper for plan in plans.values()} == {"after:3"}
    with pytest.raises(UserError, match="--stopper after:99: trials have"):
        comparison(stopper="after:99").plans()


def test_presets_are_methods_with_some_fields_fixed() -> None:
    plans = comparison(methods=PRESETS, fixed={}).plans()
    assert {name: plan.check().dus.kind for name, plan in plans.items()} == {
        "dus_heuristic": "heuristic",
        "dus_ppo": "ppo",
    }
    assert {plan.check().method for plan in plans.values()} == {"unimodal_losses"}
    with pytest.raises(UserError, match="unknown method 'dus'"):
        comparison(methods=("dus",)).plans()


def test_what_cannot_be_compared_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="did you mean"):
        comparison(methods=("joint", "gmm_score")).plans()
    with pytest.raises(UserError, match="nothing to search"):
        comparison(methods=("joint",), fixed={"optimizer.lr": 0.1, "optimizer.weight_decay": 0.0}).plans()
