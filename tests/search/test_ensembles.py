"""A sweep that keeps the weights of its best trials, and what answers afterwards."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stores import SMALL

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.search.ensembles import drop_ensemble, keep_ensemble
from raygap.search.job import Outcome
from raygap.search.plan import Plan, read_plan
from raygap.storage import Storage
from raygap.tasks.export import export
from raygap.tasks.source import load_classifier
from raygap.tracking.run_folder import best_trials, trial_folder

Stored = tuple[Path, Outcome, Storage]


def test_the_best_trials_answer_together(stored_sweep: Stored, small_store: Store, tmp_path: Path) -> None:
    folder, outcome, _ = stored_sweep
    trials = best_trials(outcome.study, 2)
    assert {path.parent.name for path in folder.glob("trials/*/best.pt")} == {f"{one.number:04d}" for one in trials}
    kept = json.loads((folder / "ensemble.json").read_text())
    assert kept["validation"]["single"]["val_loss"] == pytest.approx(outcome.best.value, abs=1e-6)
    reached = {name: metrics["val_loss"] for name, metrics in kept["validation"].items()}
    assert reached[kept["answer"]] == min(reached.values())
    assert outcome.about_ensemble == kept["about"]
    classifier, rows = load_classifier(folder), small_store.rows("test")
    guess = classifier.logits(np.array(small_store.frames[rows]), np.array(small_store.spectrograms[rows]))
    right = (guess["fused"].argmax(1) == small_store.labels[rows]).mean()
    table = list(csv.DictReader(next(folder.glob("seeds/*/test.csv")).open(newline="")))
    fresh = str(outcome.config.seed + 1)
    if kept["answer"] == "single":
        assert [row["seed"] for row in table] == [fresh]
    else:
        assert [row["seed"] for row in table] == [fresh, *2 * [str(outcome.config.seed)]]
        assert [row["configuration"].split()[0] for row in table] == ["chosen", "single", "ensemble"]
        assert float(table[2]["test_accuracy"]) == right
        assert len(classifier.members) in (0, len(kept["weights"]))
        card = export(folder, "torch", tmp_path / "model.pt2").card.read_text(encoding="utf-8")
        assert f"| what answers | test | {right:.4f} |" in card


def test_weights_that_are_gone_are_said_and_one_trial_is_no_ensemble(
    stored_sweep: Stored, small_store: Store, tmp_path: Path
) -> None:
    folder, outcome, _ = stored_sweep
    plan = replace(read_plan(folder), keep_top=9)
    first, *others = best_trials(outcome.study, 9)
    for trial in (first, *others):
        trial_folder(tmp_path, trial.number).mkdir(parents=True)
    best = trial_folder(tmp_path, first.number) / "best.pt"
    best.write_bytes((trial_folder(folder, first.number) / "best.pt").read_bytes())
    lines, tested = keep_ensemble(plan, outcome.study, tmp_path, small_store, True)
    assert "but their weights were not kept" in lines[0]
    assert lines[1].startswith("No ensemble: fewer than two")
    assert tested == {}
    assert not (tmp_path / "ensemble.json").exists()
    (tmp_path / "ensemble.json").touch()
    with pytest.raises(UserError, match=r"ensemble\.json: cannot be read; delete it"):
        load_classifier(tmp_path)
    drop_ensemble(tmp_path)
    assert not (tmp_path / "ensemble.json").exists()


def test_protocol_paper_has_no_validation_to_choose_on() -> None:
    plan = Plan("small", None, 3, SMALL | {"protocol": "paper"}, {"loss.focus": {"uniform": [0, 5]}}, "", keep_top=9)
    with pytest.raises(UserError, match=r"--keep-top 9: .* protocol paper"):
        plan.check()
