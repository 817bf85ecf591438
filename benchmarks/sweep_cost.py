"""What does a sweep cost, beside the same sweep as it is written today, and which part of raygap saves how much?

python benchmarks/sweep_cost.py --out /tmp/cost --results benchmarks/results/sweep_cost.md
python benchmarks/sweep_cost.py --out /tmp/cost --data digits --fsdd DIR
python benchmarks/sweep_cost.py --out /tmp/cost --arm raygap --arm nested

Every arm runs the same configurations in the same order, drawn once at random from the demo's search space and handed
to the search as its first suggestions. `baseline` is baseline_sweep.py; `raygap` is what launch/sweep.py runs; every
other arm is raygap with one part taken away or changed. Without early stopping all arms train the same epochs, so that
their validation accuracies can be compared trial by trial; the arms `..., early stopping` add ASHA.

Each arm is a process of its own that starts Ray and ends it. Its time on the clock runs from the start of that process
to its end; its CPU time is that of the process and all under it, read five times a second from /proc, so that the last
fifth of a second of each process may be missing. Preparing the store and the baseline's files, the test of the best
configuration and the report are left out. A finished arm is kept in OUT/<data>.json and not run again.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import numpy as np
import optuna
import typer
from loading import family, stat_of
from pages import write_page
from ray import tune

from raygap.ending import user_errors
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search import sweep
from raygap.search.journal import open_storage
from raygap.search.placement import Placement, trial_resources
from raygap.search.plan import Plan, make_folder, write_plan
from raygap.search.ray_start import start_ray
from raygap.search.space import SearchSpace, distribution, load_space
from raygap.search.study import STUDY
from raygap.search.together import DRIVER, run_trial
from raygap.search.trial import SweepTrial
from raygap.tracking.run_folder import JOURNAL
from raygap.tracking.seed_results import Interval
from raygap.tracking.wandb.layout import VALUE

TICKS = os.sysconf("SC_CLK_TCK")
BASELINE, RAYGAP = "baseline", "raygap"
MADE = "data.json"
"""What all arms share, made before the first of them begins."""


@dataclass(frozen=True)
class Arm:
    """A way to run the sweep; the defaults are raygap's."""

    what: str
    baseline: bool = False
    trunk: bool = True
    reuse_actors: bool = True
    files: bool = False
    nested: bool = False
    early_stopping: bool = False
    concurrency: int = 2
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the configuration."""


ARMS = {
    BASELINE: Arm("as it is written today", baseline=True),
    RAYGAP: Arm("all of raygap"),
    "no trunk": Arm("every trial trains its own warm-up", trunk=False),
    "fresh actors": Arm("a new process for each trial", reuse_actors=False),
    "files": Arm("the baseline's Dataset and DataLoader in place of the packed store", files=True),
    "nested": Arm("each trial in a TorchTrainer inside the Tune trial", nested=True),
    "bf16": Arm("compute.precision=bf16", changes={"compute.precision": "bf16"}),
    "one at a time": Arm("one trial at a time with two threads", concurrency=1, changes={"compute.threads": 2}),
    "baseline, early stopping": Arm("as it is written today, with ASHA", baseline=True, early_stopping=True),
    "raygap, early stopping": Arm("all of raygap, with ASHA", early_stopping=True),
}


@dataclass(frozen=True)
class Trial:
    """What became of a configuration."""

    number: int
    epochs: int
    trained: int
    """Epochs that were trained, and not taken from another trial."""
    accuracy: float
    """best_val_accuracy of its last epoch."""


class FileTrial(SweepTrial):
    """A trial that reads files. Arms derive from it, to say where they lie."""

    files: Path

    def setup(self, config: dict[str, Any], **others: Any) -> None:
        """As SweepTrial."""
        from baseline_sweep import read_files

        read_files(self.files)
        super().setup(config, **others)


def nested_trial(suggested: dict[str, Any], **others: Any) -> None:
    """A trial in the one worker of a TorchTrainer: what raygap does for trials of several workers."""
    run_trial(suggested, **others, placement=Placement(1, 1, {"CPU": 1}))


@dataclass(frozen=True)
class Data:
    """What all arms share."""

    name: str
    space: SearchSpace
    store: Path
    files: Path
    points: list[dict[str, Any]]
    """The configurations, in their order."""


def make_data(name: str, fsdd: Path | None, trials: int, out: Path) -> Data:
    """Clips, the store, the baseline's files and the configurations; what is there is kept."""
    # Here, as no arm need import what only this needs.
    from baseline_sweep import write_files
    from digits import FIXED, RECIPE
    from digits_data import write_data

    from raygap.data.prepare import prepare
    from raygap.data.readers import read_clips
    from raygap.data.store import Store

    demo = load_space("demo", None, None)
    if name == "demo":
        space, clip_list = demo, read_clips("demo", None)
    else:
        if fsdd is None:
            raise UserError("--data digits needs --fsdd, the folder of the Free Spoken Digit Dataset")
        space = SearchSpace({"method": "gmm_scores", "purify.epochs": 2, **FIXED}, demo.space)
        clip_list = read_clips("manifest", write_data(fsdd, out / "digits-media", RECIPE))
    settings = from_mapping(space.fixed).prepare
    store = prepare(clip_list, settings, out / "stores")
    files = out / f"{name}-files"
    write_files(clip_list, Store.open(store), settings, files)
    return Data(name, space, store, files, draw_points(space, trials))


def _read_data(file: Path) -> Data:
    made = json.loads(file.read_text())
    return Data(made["name"], SearchSpace(**made["space"]), Path(made["store"]), Path(made["files"]), made["points"])


def draw_points(space: SearchSpace, trials: int) -> list[dict[str, Any]]:
    """Configurations at random; the first n of them are the same, however many are drawn."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = space.distributions()
    return [study.ask(distributions).params for _ in range(trials)]


def domains(space: SearchSpace) -> dict[str, Any]:
    """The space as Ray Tune has it."""
    named = {path: distribution(path, entry, "space") for path, entry in space.space.items()}
    return {path: getattr(tune, name)(*([ends] if name == "choice" else ends)) for path, (name, ends) in named.items()}


def run_arm(arm: Arm, data: Data, folder: Path) -> list[Trial]:
    """Run a sweep in this process and under it."""
    fixed = data.space.fixed | arm.changes
    space, stopper = data.space.space, "asha" if arm.early_stopping else "none"
    trunk_gb = 20.0 if arm.trunk else 0.0
    plan = Plan(data.name, None, len(data.points), fixed, space, "", trunk_gb=trunk_gb, stopper=stopper)
    return _run_baseline(arm, data, plan, folder) if arm.baseline else _run_raygap(arm, data, plan, folder)


def _run_baseline(arm: Arm, data: Data, plan: Plan, folder: Path) -> list[Trial]:
    import baseline_sweep
    import ray

    slots = {baseline_sweep.SLOT: arm.concurrency}
    ray.init(resources=slots, log_to_driver=False, logging_level=logging.ERROR)
    resources = trial_resources(arm.concurrency)
    results = baseline_sweep.run(
        baseline_sweep.Sweep(
            plan.fixed,
            domains(data.space),
            data.points,
            data.store,
            data.files,
            folder,
            arm.concurrency,
            resources["CPU"],
            resources.get("GPU", 0),
            arm.early_stopping,
        ),
        plan.check(),
    )
    rows = [result.metrics for result in results]
    return [Trial(i, row["epoch"], row["epoch"], row[VALUE]) for i, row in enumerate(rows)]


def _run_raygap(arm: Arm, data: Data, plan: Plan, folder: Path) -> list[Trial]:
    make_folder(folder, new=True)
    write_plan(plan, folder)
    study = optuna.create_study(study_name=STUDY, storage=open_storage(folder / JOURNAL), direction="maximize")
    for point in data.points:
        study.enqueue_trial(point)
    with contextlib.ExitStack() as stack:
        if arm.nested:
            start_ray(dashboard=True)
            stack.enter_context(mock.patch.object(sweep, "SweepTrial", nested_trial))
            waiting = Placement(arm.concurrency, 1, DRIVER)
            stack.enter_context(mock.patch.object(sweep, "place", return_value=waiting))
        if arm.files:
            trial = type("FilesTrial", (FileTrial,), {"files": data.files})
            stack.enter_context(mock.patch.object(sweep, "SweepTrial", trial))
        if not arm.reuse_actors:
            fresh = partial(_without_reuse, tune.TuneConfig)
            stack.enter_context(mock.patch.object(tune, "TuneConfig", fresh))
        study = sweep.run_trials(plan, folder, data.store, arm.concurrency)
    return [
        Trial(t.number, t.user_attrs["epochs"], t.user_attrs["epochs"] - t.user_attrs["epochs_reused"], t.value)
        for t in study.trials
    ]


def _without_reuse(make: Callable[..., tune.TuneConfig], **settings: Any) -> tune.TuneConfig:
    return make(**settings | {"reuse_actors": False})


class Meter(threading.Thread):
    """CPU time of a process and of all that are, or were, under it."""

    def __init__(self, parent: int) -> None:
        super().__init__(daemon=True)
        self.parent, self.ended = parent, threading.Event()
        self.ticks: dict[tuple[int, str], int] = {}
        self.start()

    def run(self) -> None:
        """Read every process five times a second."""
        while not self.ended.wait(0.2):
            for process in family(self.parent):
                with contextlib.suppress(OSError):
                    stat = stat_of(process)
                    # A number may be given to another process later; the time of its start tells them apart.
                    self.ticks[process, stat[19]] = int(stat[11]) + int(stat[12])

    def seconds(self) -> float:
        """In all."""
        self.ended.set()
        self.join()
        return sum(self.ticks.values()) / TICKS


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Wall and CPU seconds of a command. Raises UserError if it fails."""
    began = time.perf_counter()
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        meter = Meter(process.pid)
        failed = process.wait()
    if failed:
        raise UserError(f"an arm has failed; see {log}")
    return {"wall": time.perf_counter() - began, "cpu": meter.seconds()}


def table(arms: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown; a ratio is that to raygap's arm, with or without early stopping."""
    lines = [
        "| arm | what | wall s | CPU s | epochs trained | best val. accuracy | wall | CPU | accuracy to raygap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        stopping = ARMS[name].early_stopping
        beside = arms.get(f"{RAYGAP}, early stopping" if stopping else RAYGAP)
        best = max(trial["accuracy"] for trial in arm["trials"])
        cells = [name, ARMS[name].what, f"{arm['wall']:.0f}", f"{arm['cpu']:.0f}"]
        cells += [str(sum(trial["trained"] for trial in arm["trials"])), f"{best:.4f}"]
        if beside:
            cells += [f"{arm[what] / beside[what]:.2f}x" for what in ("wall", "cpu")]
            cells.append("" if stopping or arm is beside else paired(arm["trials"], beside["trials"]))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def paired(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """Mean difference of the trials' accuracies, with its 95 % interval."""
    differences = np.array([a["accuracy"] - b["accuracy"] for a, b in zip(one, other, strict=True)])
    if not differences.any():
        return "equal in every trial"
    interval = Interval.of(differences.tolist())
    return f"{interval.mean:+.4f} ± {interval.half_width:.4f}"


@user_errors()
def main(
    out: Annotated[Path, typer.Option(help="Folder for media, stores, files, sweeps and the arms' results.")],
    data: Annotated[Literal["demo", "digits"], typer.Option(help="The clips.")] = "demo",
    fsdd: Annotated[Path | None, typer.Option(help="The Free Spoken Digit Dataset, for digits.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="One of the arms; may be repeated. All.")] = None,
    trials: Annotated[int, typer.Option(min=2)] = 12,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    inside: Annotated[str | None, typer.Option(hidden=True, help="Run this arm here and now.")] = None,
) -> None:
    """Run the arms that have not run yet, and print a table of all that have."""
    kept, work = out / f"{data}-{trials}.json", out / f"{data}-{trials}"
    if inside:
        found = run_arm(ARMS[inside], _read_data(work / MADE), work / inside / "run")
        (work / inside / "trials.json").write_text(json.dumps([asdict(trial) for trial in found]))
        return
    work.mkdir(parents=True, exist_ok=True)
    (work / MADE).write_text(json.dumps(asdict(make_data(data, fsdd, trials, out)), default=str))
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    for name in arms or ARMS:
        if name not in ARMS:
            raise UserError(f"--arm {name}: no such arm; one of: {'; '.join(ARMS)}")
        if name in done:
            continue
        shutil.rmtree(work / name, ignore_errors=True)  # of an arm that was interrupted
        (work / name).mkdir(parents=True)
        cost = measure([sys.executable, *sys.argv, "--inside", name], work / name / "log.txt")
        done[name] = cost | {"trials": json.loads((work / name / "trials.json").read_text())}
        kept.write_text(json.dumps(done, indent=1))
        print(f"{name}: {cost['wall']:.0f} s, CPU {cost['cpu']:.0f} s", flush=True)
    lines = table({name: done[name] for name in ARMS if name in done})
    print("\n".join(lines))
    write_page(results, f"{trials} trials on {data}", lines)


if __name__ == "__main__":
    typer.run(main)
