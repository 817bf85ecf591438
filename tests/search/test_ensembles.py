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
from raygap.search.job import Outcome, run_sweep
from raygap.search.plan import Plan, make_folder, write_plan
from raygap.tasks.export import export
from raygap.tasks.source import load_classifier
from raygap.tracking.run_folder import best_trials, trial_folder

PLAN = Plan(
    dataset="small",
    root=None,
    cache="",
    trials=3,
    fixed=SMALL | {"method": "gmm_adaptive", "epochs": 3, "warmup.epochs": 1},
    space={"loss.focus": {"uniform": [0, 5]}},
    test_seeds=1,
    references=False,
    metric="loss",
    stopper="none",
    keep_top=9,
)


@pytest.fixture(scope="module")
def swept(small_store: Store, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """More weights are to be kept than there are trials; by the loss, of which a mean of answers has less."""
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    make_folder(folder, new=True)
    write_plan(PLAN, folder)
    return folder, run_sweep(PLAN, folder, small_store.path, 2, None, lambda seed, metrics: None, quiet=True)


def test_the_best_trials_answer_together(swept: tuple[Path, Outcome], small_store: Store) -> None:
    folder, outcome = swept
    trials = best_trials(outcome.study, 9)
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
    if kept["answer"] == "single":
        assert [row["seed"] for row in table] == ["1"]
    else:
        assert [row["seed"] for row in table] == ["1", "0", "0"]
        assert [row["configuration"].split()[0] for row in table] == ["chosen", "single", "ensemble"]
        assert float(table[2]["test_accuracy"]) == right
        assert len(classifier.members) in (0, len(kept["weights"]))
        card = export(folder, "torch", folder / "model.pt2").card.read_text(encoding="utf-8")
        assert f"| what answers | test | {right:.4f} |" in card


def test_weights_that_are_gone_are_said_and_one_trial_is_no_ensemble(
    swept: tuple[Path, Outcome], small_store: Store, tmp_path: Path
) -> None:
    folder, outcome = swept
    first, *others = best_trials(outcome.study, 9)
    for trial in (first, *others):
        trial_folder(tmp_path, trial.number).mkdir(parents=True)
    best = trial_folder(tmp_path, first.number) / "best.pt"
    best.write_bytes((trial_folder(folder, first.number) / "best.pt").read_bytes())
    lines, tested = keep_ensemble(PLAN, outcome.study, tmp_path, small_store, True)
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
    with pytest.raises(UserError, match=r"--keep-top 9: .* protocol paper"):
        replace(PLAN, fixed=PLAN.fixed | {"protocol": "paper"}).check()
