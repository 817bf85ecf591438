import csv
import json
from pathlib import Path

import pytest
from stores import SMALL

from raygap.config import from_mapping, load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.search.comparison import Comparison, compare, read_comparison, write_comparison
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


def test_methods_get_the_same_budget_data_seeds_and_shared_fields(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    asked = comparison()
    write_comparison(asked, tmp_path)
    assert read_comparison(tmp_path) == asked
    results = compare(asked, tmp_path, small_store.path, 1, lambda seed, metrics: None, lambda line: None)
    assert [result.method for result in results] == ["joint", "cml"]
    for result in results:
        assert sorted(result.seeds) == [1, 2]
        assert result.cost["trials"] == 2
        assert result.cost["epochs"] <= 8
        plan = load_yaml(tmp_path / result.method / "sweep.yaml")
        assert {"optimizer.lr", "optimizer.weight_decay"} <= set(plan["space"])
        assert "optimizer.lr" not in plan["fixed"]
    read = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert [(row["method"], row["seed"]) for row in read] == [(m, s) for m in asked.methods for s in ("1", "2")]
    kept = json.loads((tmp_path / "comparison.json").read_text())
    # Once more: nothing is searched or trained again, and the numbers are the same.
    files = {file: file.stat().st_mtime for file in tmp_path.glob("*/trials/*/metrics.parquet")}
    compare(asked, tmp_path, small_store.path, 1, lambda seed, metrics: None, lambda line: None)
    assert json.loads((tmp_path / "comparison.json").read_text()) == kept
    assert {file: file.stat().st_mtime for file in tmp_path.glob("*/trials/*/metrics.parquet")} == files


def test_a_budget_of_seconds_ends_every_search_and_is_not_spent_twice_and_the_papers_protocol_is_labelled(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    asked = comparison(methods=("joint",), trials=10_000, budget=4.0, seeds=1, paper=True)
    first = compare(asked, tmp_path, small_store.path, 2, lambda seed, metrics: None, lambda line: None)
    again = compare(asked, tmp_path, small_store.path, 2, lambda seed, metrics: None, lambda line: None)
    # The number chosen on test is the best test accuracy of any epoch, trained on train and val.
    [best] = (tmp_path / "joint-paper").glob("trials/*/best.pt")
    config = from_mapping(load_yaml(best.parent / "config.yaml"))
    assert config.protocol == "paper"
    rows = list(train(config, small_store, tmp_path / "again"))
    assert first[0].paper == max(row["val_accuracy"] for row in rows if row["stage"] != "warmup")
    assert "PAPER PROTOCOL" in (tmp_path / "joint-paper" / "best.yaml").read_text()
    assert "paper protocol" in (tmp_path / "comparison.md").read_text()
    cost = first[0].cost
    assert 4.0 <= cost["seconds"] < 60
    assert again[0].cost == cost
    assert sorted(again[0].seeds) == [1]


def test_what_cannot_be_compared_is_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="did you mean"):
        comparison(methods=("joint", "gmm_score")).plans()
    with pytest.raises(UserError, match="nothing to search"):
        comparison(methods=("joint",), fixed={"optimizer.lr": 0.1, "optimizer.weight_decay": 0.0}).plans()
