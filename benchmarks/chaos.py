"""Does a sweep come through when its processes are killed all the time?

python benchmarks/chaos.py --out /tmp/chaos --results benchmarks/results/chaos.md

A sweep on a cluster of three raylets on this machine: a head that trains nothing, and two that run a trial each. Again
and again something is killed (SIGKILL): the process of a trial, a raylet with all its processes, which is then started
anew, or the sweep's own process, which another goes on from, as `--resume` does. The next kill comes some seconds
after an epoch has been trained again, so the sweep is always at work when it is hit. Then everything is counted.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import pyarrow.parquet as pq
import typer
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState
from pages import write_page
from ray._common.utils import reset_ray_address
from ray._private.node import Node
from ray.cluster_utils import Cluster

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.search import sweep
from raygap.search.plan import Plan, make_folder, read_plan, write_plan
from raygap.search.study import FINISHED, TRIAL_NUMBER
from raygap.search.trial import SweepTrial
from raygap.tracking.run_folder import JOURNAL, trial_folder
from raygap.training import run
from raygap.training.trainer import Trainer

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))
import psutil  # noqa: E402  (Ray's own, which `import ray` makes known)
from stores import SMALL, write_store  # noqa: E402

CLIPS = 720
FIXED = SMALL | {"epochs": 12}
SPACE = {
    "loss.focus": {"uniform": [0, 5]},
    "warmup.epochs": {"randint": [1, 4]},
    "optimizer.lr": {"loguniform": [0.01, 0.2]},
}
LETHAL = {"trial's process": 7, "raylet": 2, "sweep's process": 1}
"""What is killed, and how often beside the others."""
DRIVER = "import sys, chaos; chaos.drive(*sys.argv[1:])"


class NotingTrainer(Trainer):
    """Notes each epoch that it begins to train."""

    notes: Path

    def train_epoch(self) -> dict[str, Any]:
        """As Trainer."""
        with self.notes.open("a") as file:
            file.write(f"{self.epoch + 1}\n")
        return super().train_epoch()


class NotingTrial(SweepTrial):
    """A trial that notes when it starts, and each epoch that it begins to train."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """As SweepTrial."""
        run.Trainer = NotingTrainer
        NotingTrainer.notes = self.folder / "notes" / str(new_config[TRIAL_NUMBER])
        with NotingTrainer.notes.open("a") as file:
            file.write("start\n")
        return super().reset_config(new_config)


def drive(folder: str, store: str) -> None:
    """The sweep's own process."""
    with mock.patch.object(sweep, "SweepTrial", NotingTrial):
        sweep.run_trials(read_plan(Path(folder)), Path(folder), Path(store), concurrency=2)


class Victims:
    """The cluster and the sweep's process, killed and brought back."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.store = folder, store
        self.log = (folder / "driver.log").open("w")
        path = [str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(path)
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        # A raylet that is gone is known to be gone after 2 s, not 15.
        noticed = {
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
            "health_check_initial_delay_ms": 0,
        }
        head = {"num_cpus": 0, "_system_config": noticed, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        reset_ray_address()  # else every ray.init() on this machine would join

        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.start()

    def start(self) -> None:
        """Start the sweep, or go on with it."""
        command = [sys.executable, "-c", DRIVER, str(self.folder), str(self.store)]
        environment = os.environ | {"RAY_ADDRESS": self.cluster.address, "WANDB_MODE": "disabled"}
        self.driver = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)

    def sweep_runs(self) -> bool:
        """Whether the sweep's process lives."""
        return self.driver.poll() is None

    def wait_for_an_epoch(self) -> None:
        """Until one more is being trained, or the sweep is over. Raises TimeoutError after five minutes."""
        begun, end = _begun(self.folder), time.monotonic() + 300
        while self.sweep_runs() and _begun(self.folder) == begun:
            if time.monotonic() > end:
                raise TimeoutError("the sweep trained nothing for five minutes")
            time.sleep(0.05)

    def kill(self, what: str, draw: random.Random) -> bool:
        """Whether there was something to kill: of trials, those that are training."""
        match what:
            case "trial's process":
                return self._kill_trial(draw)
            case "raylet":
                number = draw.randrange(len(self.nodes))
                self.nodes[number].all_processes["raylet"][0].process.kill()
                self.nodes[number].all_processes["raylet"][0].process.wait()
                self.cluster.remove_node(self.nodes[number], allow_graceful=False)
                self.nodes[number] = self.cluster.add_node(num_cpus=1)
            case "sweep's process":
                self.driver.kill()
                self.driver.wait()
                self.start()
        return True

    def _kill_trial(self, draw: random.Random) -> bool:
        trials = [
            process
            for node in self.nodes
            for process in psutil.Process(_raylet(node)).children()
            if "Trainable.train" in " ".join(process.cmdline())
        ]
        if trials:
            draw.choice(trials).kill()
        return bool(trials)

    def shutdown(self) -> None:
        """End everything."""
        self.driver.kill()
        self.driver.wait()
        self.cluster.shutdown()
        self.log.close()


def _raylet(node: Node) -> int:
    return node.all_processes["raylet"][0].process.pid


def _begun(folder: Path) -> int:
    return sum(len(lines) - lines.count("start") for lines in notes(folder).values())


def notes(folder: Path) -> dict[int, list[str]]:
    """What the trials have noted, by number."""
    return {int(file.name): file.read_text().split() for file in (folder / "notes").iterdir()}


def told(folder: Path) -> list[tuple[int, int, list[float] | None]]:
    """Number, state and value of each trial that ended, as the journal tells it: it can be read while it is written."""
    lines = (folder / JOURNAL).read_text().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    ended = [e for e in entries if e["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES and e["state"] in FINISHED]
    return [(e["trial_id"], e["state"], e["values"]) for e in ended]


def counted(folder: Path, before: list[tuple[int, int, list[float] | None]]) -> list[str]:
    """What came of it; `before` is what the journal told at the last kill."""
    after, noted = told(folder), notes(folder)
    starts = sum(lines.count("start") for lines in noted.values())
    epochs = [Counter(line for line in lines if line != "start") for lines in noted.values()]
    trained, different = sum(map(Counter.total, epochs)), sum(map(len, epochs))
    how = Counter(TrialState(state).name.lower() for _, state, _ in after)
    return [
        f"trials that ended: {len(after)} ({', '.join(f'{count} {state}' for state, count in how.items())})",
        f"results lost: {len([entry for entry in before if entry not in after])}",
        f"trials counted twice: {len(after) - len({number for number, _, _ in after})}",
        f"trials started again: {starts - len(noted)}",
        f"epochs trained: {trained}, of them redone: {trained - different}, "
        f"none more often than {max(max(count.values()) for count in epochs) - 1} times",
    ]


def undisturbed(folder: Path, store: Store, again: Path) -> str:
    """Train the best trial once more, alone and without saved warm-ups, and compare every metric of every epoch."""
    best = max((value[0], -number) for number, state, value in told(folder) if state == TrialState.COMPLETE)
    files = trial_folder(folder, -best[1])
    rows = list(run.train(from_mapping(load_yaml(files / "config.yaml")), store, again))
    for table, left_out in (("metrics.parquet", ["epochs_reused"]), ("ledger.parquet", [])):
        one, other = (pq.read_table(place / table).drop_columns(left_out) for place in (files, again))
        if not one.equals(other):
            return f"best trial {-best[1]}: its {table} DIFFERS from that of an undisturbed run"
    starts = notes(folder)[-best[1]].count("start")
    return (
        f"best trial {-best[1]}, {best[0]:.4f}, started {starts} times: all metrics of its {len(rows)} epochs and its "
        "ledger equal those of an undisturbed run, to the last bit"
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder for the store and the sweep; it must not exist.")],
    trials: Annotated[int, typer.Option(min=1)] = 30,
    longest: Annotated[float, typer.Option(help="Seconds from a trained epoch to the next kill, at most.")] = 8,
    seed: Annotated[int, typer.Option(help="Of what is killed when.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Run the sweep, kill, count."""
    store, folder = write_store(out.resolve() / "store", clips=CLIPS), out.resolve() / "run"
    make_folder(folder, new=True)
    (folder / "notes").mkdir()
    write_plan(Plan("small", None, trials, FIXED, SPACE, "", test_seeds=0), folder)
    draw, victims, kills, before, began = random.Random(seed), Victims(folder, store.path), Counter(), [], time.time()
    try:
        while victims.sweep_runs():
            victims.wait_for_an_epoch()
            time.sleep(draw.uniform(0, longest))
            [what] = draw.choices(list(LETHAL), list(LETHAL.values()))
            killed = False
            while victims.sweep_runs() and not (killed := victims.kill(what, draw)):
                time.sleep(0.05)
            if killed:
                kills[what] += 1
                before = told(folder)
                print(f"{time.time() - began:5.0f} s  {what} killed; {len(before)} trials have ended", flush=True)
        if victims.driver.returncode:
            raise RuntimeError(f"the sweep ended with code {victims.driver.returncode}; see {folder / 'driver.log'}")
        took = time.time() - began
    finally:
        victims.shutdown()
    facts = [
        f"kills: {kills.total()} in {took:.0f} s ({', '.join(f'{what} {count}' for what, count in kills.items())})",
        *counted(folder, before),
        undisturbed(folder, store, out.resolve() / "again"),
    ]
    lines = [
        f"`python benchmarks/chaos.py --out DIR --trials {trials} --longest {longest:g} --seed {seed}`\n",
        f"A sweep of {trials} trials of {FIXED['epochs']} epochs, two at a time on two raylets beside the head's; "
        f"SIGKILL up to {longest:g} s after an epoch was trained, again and again.\n",
        *(f"* {fact}" for fact in facts),
    ]
    print("\n".join(lines))
    write_page(results, "Chaos", lines)


if __name__ == "__main__":
    typer.run(main)
