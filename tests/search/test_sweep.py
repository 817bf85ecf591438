import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from optuna.trial import TrialState
from stores import SMALL, write_store

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.provenance import FACTS
from raygap.schema import from_mapping
from raygap.search.job import Outcome
from raygap.search.placement import in_words, place, trial_resources
from raygap.search.plan import Plan, make_folder, read_plan, write_plan
from raygap.search.study import TRIAL_NUMBER
from raygap.search.sweep import run_trials
from raygap.training import checkpoint
from raygap.training.run import train

SPACE = {"loss.focus": {"uniform": [0, 5]}, "warmup.epochs": {"randint": [1, 3]}}


def plan(trials: int, **changes: Any) -> Plan:
    return Plan(
        **(
            {
                "dataset": "small",
                "root": None,
                "cache": "",
                "trials": trials,
                "test_seeds": 2,
                "fixed": SMALL,
                "space": SPACE,
            }
            | changes
        )
    )


def test_a_sweep_leaves_what_its_users_read(
    finished_sweep: tuple[Path, Outcome], small_store: Store, tmp_path: Path
) -> None:
    folder, outcome = finished_sweep
    states = [trial.state for trial in outcome.study.trials]
    assert len(states) == 5
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    best = from_mapping(load_yaml(folder / "best.yaml"))
    assert best == outcome.config
    assert best.loss.focus == outcome.best.params["loss.focus"]
    assert outcome.best.value == max(t.value for t in outcome.study.trials if t.value is not None)
    assert sorted(outcome.test.rows) == [1, 2]  # fresh seeds: the search used 0
    assert 0 <= outcome.test.interval("test_accuracy").mean <= 1
    rows = (folder / "trials.csv").read_text().splitlines()
    assert len(rows) == 6
    files = folder / "trials" / f"{outcome.best.number:04d}"
    assert {p.name for p in files.iterdir()} == {"best.pt", "config.yaml", "ledger.parquet", "metrics.parquet"}
    assert len(list(folder.glob("trials/*/best.pt"))) == 1  # only the winner's weights are kept
    ledger = pq.read_table(files / "ledger.parquet")
    assert len(ledger) == len(small_store.rows("train"))
    assert {"clip", "audio", "visual", "gap", "balanced", "audio_after_warmup"} <= set(ledger.column_names)
    # Beside it, on the same seeds, what it is compared with; and what to use instead.
    assert list(outcome.worth.results) == ["chosen", "shuffled", "unimodal_losses", "joint"]
    tested = list(csv.DictReader(next(folder.glob("seeds/*/test.csv")).open(newline="")))
    assert [(row["configuration"], row["seed"]) for row in tested] == [
        (name, seed) for name in outcome.worth.results for seed in ("1", "2")
    ]
    for row in tested[2:]:
        chosen = next(float(own["test_accuracy"]) for own in tested if own["seed"] == row["seed"])
        assert float(row["chosen_ahead"]) == pytest.approx(chosen - float(row["test_accuracy"]))
    assert outcome.worth.sentence.startswith("gmm_adaptive is ")
    assert from_mapping(load_yaml(folder / "baseline.yaml")).method == outcome.worth.baseline
    # Weights shuffled within a class are others, and what it shares with the chosen one is its warm-up.
    shuffled = folder / "seeds" / f"trial-{outcome.best.number:04d}" / "shuffled" / "1"
    assert load_yaml(shuffled / "config.yaml")["mixture"]["posterior"] == "shuffled"
    assert all(float(row["epochs_reused"]) == best.warmup.epochs for row in tested[2:6])
    assert "correction" in checkpoint.load(files / "best.pt")
    spoiled = list(csv.DictReader((folder / "spoiled.csv").open(newline="")))
    assert {row["id"] for row in spoiled} <= set(small_store.clip_ids)
    for file in ("figures/gap.png", "figures/curves.png", "report.html"):
        assert (folder / file).stat().st_size > 5000
    assert "validation accuracy" in (folder / "report.html").read_text()
    # What the sweep says of a trial is what training it alone says.
    alone = list(train(best, small_store, tmp_path / "alone"))
    assert alone[-1]["best_val_accuracy"] == outcome.best.value
    tables = [pq.read_table(run / "metrics.parquet").drop(["epochs_reused"]) for run in (tmp_path / "alone", files)]
    assert tables[0].equals(tables[1])
    # Five trials with warm-ups of one or two epochs: two epochs are trained, the others shared.
    warmups = [from_mapping(load_yaml(f)).warmup.epochs for f in folder.glob("trials/*/config.yaml")]
    assert sum(t.user_attrs["epochs_reused"] for t in outcome.study.trials) == sum(warmups) - max(warmups)
    assert f"{sum(warmups) - max(warmups)} of them shared warm-up" in outcome.about_epochs()
    # Both test seeds left theirs too, for another winner.
    assert len(list((folder.parent / ".trunk").iterdir())) == 1 + 2


def test_a_failed_trial_is_told_as_failed_and_its_actor_lives_on(
    small_store: Store, tmp_path: Path, ray_cluster: None
) -> None:
    # A learning rate at the end of float32 makes the loss NaN in the first epochs.
    space = {"optimizer.lr": {"choice": [0.05, 10.0]}, "loss.focus": {"uniform": [0, 5]}}
    fixed = SMALL | {"optimizer.weight_decay": 1.0, "optimizer.momentum": 0.99, "model.norm": "group"}
    folder = tmp_path / "run"
    make_folder(folder, new=True)
    write_plan(plan(8), folder)
    study = run_trials(plan(8, space=space, fixed=fixed), folder, small_store.path, concurrency=1)
    failed = [trial for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(study.trials) == 8
    assert failed
    assert len(failed) < 8
    assert all(trial.params["optimizer.lr"] == 10.0 for trial in failed)
    assert all("the loss became" in trial.user_attrs["error"] for trial in failed)
    assert min(trial.number for trial in failed) < 7  # or nothing came after it
    results = [json.loads(line) for file in folder.glob("tune/*/result.json") for line in file.read_text().splitlines()]
    assert {result["config"][TRIAL_NUMBER] for result in results} == set(range(8))
    assert len({result["pid"] for result in results}) == 1


def test_a_sweeps_files_say_what_made_them(finished_sweep: tuple[Path, Outcome]) -> None:
    folder, outcome = finished_sweep
    begun = load_yaml(folder / "sweep.yaml")["made_by"]
    assert begun["host"]
    assert f"# Made by raygap {begun['raygap']}," in (folder / "best.yaml").read_text()
    weights = checkpoint.load(folder / "trials" / f"{outcome.best.number:04d}" / "best.pt")
    rows = list(csv.DictReader(next(folder.glob("seeds/*/test.csv")).open(newline="")))
    assert len(rows) == 2 * 4
    for made in (weights["made_by"], *rows):
        named = {name: made.get(name) for name in FACTS if name != "date"}
        assert named == {name: begun.get(name, None if made is weights["made_by"] else "") for name in named}
        assert made["date"] >= begun["date"]


def test_a_plan_written_again_keeps_what_began_the_sweep_and_says_nothing_of_an_older_one(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    write_plan(plan(3), tmp_path)
    begun = load_yaml(file) | {"made_by": {"raygap": "0.0.1"}}
    file.write_text(yaml.safe_dump(begun))
    write_plan(replace(read_plan(tmp_path), trials=4), tmp_path)
    assert load_yaml(file) == begun | {"trials": 4}
    begun.pop("made_by")
    file.write_text(yaml.safe_dump(begun))
    write_plan(read_plan(tmp_path), tmp_path)
    assert load_yaml(file) == begun


def test_a_sweep_does_not_go_on_with_other_data(finished_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(finished_run, tmp_path / "moved", ignore=shutil.ignore_patterns("tune")))
    other = write_store(tmp_path / "store", seed=1)
    with pytest.raises(UserError, match="the data or their preparation have changed"):
        run_trials(replace(read_plan(moved), trials=7), moved, other.path)


def test_a_trial_always_fits_on_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    head, worker, big = {"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 3.0}
    for machines, concurrency, share in [
        ([head, worker], 1, {"CPU": 1.0, "GPU": 1}),
        ([big], 2, {"CPU": 8.0, "GPU": 1}),
        ([big], 6, {"CPU": 2.666, "GPU": 0.5}),
        ([head, head], 1, {"CPU": 2.0}),
        ([head], 4, {"CPU": 0.5}),
        ([head], 9000, {"CPU": 0.001}),
    ]:
        monkeypatch.setattr("raygap.search.placement.nodes", lambda machines=machines: machines)
        assert trial_resources(concurrency) == share
        assert any(all(node.get(name, 0) >= amount for name, amount in share.items()) for node in machines)


def test_a_plan_tells_what_each_trial_gets_and_what_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(machines: list[dict], concurrency: int | None = None, **fields: Any) -> list[str]:
        monkeypatch.setattr("raygap.search.placement.nodes", lambda: machines)
        config = from_mapping(fields)
        return in_words(place(config, concurrency), config.compute.threads, concurrency)

    cpus, gpus = [{"CPU": 8.0}], [{"CPU": 16.0, "GPU": 4.0}] * 2
    assert told(cpus) == [
        "8 at a time, as many as fit; this machine with 8 CPUs and 0 GPUs",
        "each gets 1 CPU, and computes with 1 thread on the CPU",
        "the CPUs limit it; none is idle",
    ]
    assert told(cpus, 2)[2] == "6 of 8 CPUs idle; compute.threads=4 would use more"
    assert told(cpus, 9)[2] == "9 threads on 8 CPUs slow each other down; run fewer trials at a time"
    first, second, third = told(gpus)
    assert first == "8 at a time, one a GPU; 2 machines with 32 CPUs and 8 GPUs"
    assert second.startswith("each gets 4 CPUs and 1 GPU,")
    assert third.startswith("the GPUs limit it")
    assert told(gpus, 16)[2] == "2 workers share a GPU and its memory"
    together = told(gpus, **{"compute.workers": 4, "compute.threads": 3})
    assert together[0].startswith("2 at a time, as many as fit")
    assert together[1].startswith("each of the 4 workers of a trial gets 3 CPUs and 1 GPU")
