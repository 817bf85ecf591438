"""How methods are compared; tests/commands/test_compare.py has a whole comparison."""

import csv
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from stores import SMALL

from raygap import extras
from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.comparison import (
    Comparison,
    compare,
    read_compared_space,
    read_comparison,
    write_comparison,
    write_tables,
)
from raygap.search.space import PRESETS, SEARCHABLE
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
    file = tmp_path / "space.yaml"
    file.write_text("fixed: {epochs: 6}\nspace: {pmr.alpha: {uniform: [0, 1]}}\nmeant_for: 6")
    asked = comparison(methods=("joint", "pmr"), space=read_compared_space(file, ("joint", "pmr")))
    write_comparison(asked, tmp_path)
    assert read_comparison(tmp_path) == asked


def test_a_space_of_ones_own_gives_every_method_the_fields_that_it_has(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "fixed: {epochs: 6, loss.focus: 2.0}\n"
        "space: {optimizer.lr: {uniform: [0.1, 0.2]}, pmr.alpha: {uniform: [0, 1]},\n"
        "        loss.align_weight: {uniform: [0.1, 1]}}"
    )
    methods = ("joint", "pmr", "gmm_adaptive", "dus_heuristic")
    asked = comparison(methods=methods, fixed={}, space=read_compared_space(file, methods))
    plans = asked.plans()
    shared = {"optimizer.lr", "optimizer.weight_decay"}
    assert plans["joint"].space.keys() == plans["dus_heuristic"].space.keys() == shared
    assert plans["pmr"].space.keys() == {*shared, "pmr.alpha"}
    assert plans["gmm_adaptive"].space.keys() == {*shared, "loss.align_weight"}
    assert {str(plan.space["optimizer.lr"]) for plan in plans.values()} == {"{'uniform': [0.1, 0.2]}"}
    configs = {name: plan.check() for name, plan in plans.items()}
    assert {config.epochs for config in configs.values()} == {6}
    assert configs["gmm_adaptive"].loss.focus == 2
    assert (configs["dus_heuristic"].method, configs["dus_heuristic"].dus.kind) == ("unimodal_losses", "heuristic")
    with pytest.raises(UserError, match=r"--space: loss\.focus: none of joint has such a field"):
        replace(asked, methods=("joint",)).plans()
    file.write_text("space: {method: {choice: [joint, pmr]}}")
    with pytest.raises(UserError, match="methods are named by --methods"):
        read_compared_space(file, methods)


def test_all_methods_can_be_compared_in_short_trainings() -> None:
    plans = comparison(dataset="cremad", methods=SEARCHABLE, fixed={"epochs": 15}).plans()
    assert {plan.check().epochs for plan in plans.values()} == {15}
    assert any("stages shortened in proportion to 15 epochs" in note for plan in plans.values() for note in plan.notes)


def test_a_budget_of_seconds_ends_every_search_and_is_not_spent_twice_and_the_papers_protocol_is_labelled(
    small_store: Store, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "report", ("no-report",))  # ten of them would be written
    asked = comparison(methods=("joint",), trials=10_000, budget=0.5, seeds=0, paper=True, concurrency=1)
    write_comparison(asked, tmp_path)
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
    assert 0.5 <= cost["seconds"] < 60
    assert not list(tmp_path.rglob(".trunk"))  # no method has for nothing what another has trained
    assert again[0].cost == cost


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
