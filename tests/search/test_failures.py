"""Real processes are killed, on a cluster of raylets of their own, as on three machines; the head trains nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pyarrow.parquet as pq
import pytest
import yaml
from dying import FAULTY, HOPELESS, UNLUCKY, DyingTrial
from optuna.trial import TrialState
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
from ray.tune import TuneError
from stores import SMALL, write_store

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search import sweep
from raygap.search.job import Outcome
from raygap.search.journal import open_storage
from raygap.search.kept import fetch_run
from raygap.search.placement import fit
from raygap.search.plan import Plan, make_folder, write_plan
from raygap.search.study import STUDY, finished_trials
from raygap.storage import Storage
from raygap.tracking.run_folder import JOURNAL, trial_folder
from raygap.training.run import train

import psutil  # isort: skip  (Ray's own, which importing Ray makes known)

TESTS = Path(__file__).parents[1]
SPACE = {"loss.focus": {"uniform": [0, 5]}}
DRIVER = """
import sys
from pathlib import Path
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group
from raygap.search.plan import read_plan
from raygap.search.sweep import run_trials
folder = Path(sys.argv[1])
run_trials(read_plan(folder), folder, Path(sys.argv[2]))
groups = [Group.FromString(group) for group in state._connect_and_get_accessor().get_placement_group_table()]
print("groups left:", sum(group.state != Group.REMOVED for group in groups), "of", len(groups))
"""


WHOLE_SWEEP = """
import sys
from pathlib import Path
from raygap.search.job import run_sweep
from raygap.search.plan import read_plan
folder = Path(sys.argv[1])
run_sweep(read_plan(folder), folder, Path(sys.argv[2]), None, None, print)
"""


class Machines:
    """A head and two worker raylets with a CPU each."""

    def __init__(self) -> None:
        path = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        with mock.patch.dict(os.environ, path):
            self.cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "include_dashboard": False,
                    # A raylet that is gone is known to be gone after 2 s, not 15.
                    "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
                },
            )
            reset_ray_address()  # else the next ray.init() of other tests would join
            self.workers = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    def sweep(self, folder: Path, store: Store, driver: str = DRIVER) -> subprocess.Popen:
        """A sweep's process: starts it, or goes on with it."""
        with (folder.parent / f"{folder.name}.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", driver, str(folder), str(store.path)],
                env=os.environ | {"RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=log,
            )

    def processes(self, *names: str) -> list[psutil.Process]:
        """Processes of Ray's workers with one of these in their title, of all raylets."""
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.workers]
        found = [process for raylet in raylets for process in raylet.children()]
        return [process for process in found if any(name in " ".join(process.cmdline()) for name in names)]

    def lose(self, process: psutil.Process) -> None:
        """Kill the raylet of a process, which dies with it, and start another raylet."""
        [node] = [n for n in self.workers if n.all_processes["raylet"][0].process.pid == process.ppid()]
        node.all_processes["raylet"][0].process.kill()
        node.all_processes["raylet"][0].process.wait()
        process.wait(60)
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.remove(node)
        self.workers.append(self.cluster.add_node(num_cpus=1))

    def logs(self) -> str:
        """What Ray's workers have said."""
        return "".join(file.read_text() for file in Path(self.workers[0].get_logs_dir_path()).glob("worker-*.err"))


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    machines = Machines()
    yield machines
    machines.cluster.shutdown()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("failures") / "store", clips=240)


def new_sweep(folder: Path, trials: int, storage: str | None = None, **fields: Any) -> Path:
    make_folder(folder, new=True)
    write_plan(Plan("small", None, trials, SMALL | fields, SPACE, "", test_seeds=0, storage=storage), folder)
    return folder


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen | None = None) -> Any:
    end = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        assert driver is None or driver.poll() is None, "the sweep's process ended"
        time.sleep(0.05)
    return found


def read_study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=STUDY, storage=open_storage(folder / JOURNAL))


def epochs(folder: Path, number: int) -> list[int]:
    table = trial_folder(folder, number) / "metrics.parquet"
    while table.exists():
        with suppress(OSError):  # it is being written
            return pq.read_table(table)["epoch"].to_pylist()
    return []


def epochs_beyond(folder: Path, before: list[int]) -> list[int]:
    now = epochs(folder, 0)
    assert len(now) >= len(before), "it has begun again"
    return now if len(now) > len(before) + 1 else []


def equals_an_undisturbed_run(folder: Path, number: int, store: Store, again: Path) -> bool:
    files = trial_folder(folder, number)
    list(train(from_mapping(yaml.safe_load((files / "config.yaml").read_text())), store, again))
    tables = [pq.read_table(run / "metrics.parquet").drop_columns(["epochs_reused"]) for run in (files, again)]
    return tables[0].equals(tables[1])


@pytest.mark.cluster
def test_a_lost_machine_a_refusing_disk_and_a_killed_sweep_cost_no_result(
    machines: Machines, store: Store, tmp_path: Path
) -> None:
    trials = range(4)  # long enough not to end while a raylet starts
    folder = new_sweep(tmp_path / "run", len(trials), epochs=30)
    log = tmp_path / "run.log"
    driver = machines.sweep(folder, store)

    wait_for(lambda: len(epochs(folder, 0)) >= 2, driver)
    machines.lose(machines.processes("SweepTrial", "Trainable")[0])
    trained = sum(len(epochs(folder, number)) for number in trials)

    wait_for(lambda: sum(len(epochs(folder, number)) for number in trials) > trained, driver)
    away = folder.rename(tmp_path / "away")
    folder.touch()  # every path below is an error now
    wait_for(lambda: "waiting for up to" in log.read_text() + machines.logs(), driver)
    folder.unlink()
    away.rename(folder)

    study = (folder / JOURNAL).read_text
    wait_for(lambda: '"op_code":6' in study(), driver)  # a trial has ended
    driver.kill()
    driver.wait()
    ended = [line for line in study().splitlines() if '"op_code":6' in line]
    before = {number: epochs(folder, number) for number in trials}

    driver = machines.sweep(folder, store)
    assert driver.wait(300) == 0, log.read_text()
    assert ended == [line for line in study().splitlines() if '"op_code":6' in line][: len(ended)]
    after = read_study(folder)
    assert len(after.trials) == len(finished_trials(after)) == len(trials)
    assert study().count('"op_code":6') == len(trials)
    for trial in after.trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert epochs(folder, trial.number) == list(range(1, trial.user_attrs["epochs"] + 1))
        assert len(before[trial.number]) <= trial.user_attrs["epochs"]
    complete = next(trial for trial in after.trials if trial.state == TrialState.COMPLETE)
    assert equals_an_undisturbed_run(folder, complete.number, store, tmp_path / "again")


@pytest.mark.cluster
def test_a_killed_worker_or_machine_costs_its_trial_an_epoch_and_an_interrupted_sweep_leaves_no_places(
    machines: Machines, store: Store, tmp_path: Path
) -> None:
    fields = {"compute.workers": 2, "model.norm": "group", "epochs": 400}  # more than it will live to see
    folder = new_sweep(tmp_path / "run", 1, **fields)
    driver = machines.sweep(folder, store)
    wait_for(lambda: len(epochs(folder, 0)) >= 2, driver)
    for kill in (psutil.Process.kill, machines.lose):  # a worker, then the machine of a worker
        kill(machines.processes("RayTrainWorker")[0])
        before = epochs(folder, 0)
        wait_for(partial(epochs_beyond, folder, before), driver)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(120) == 0
    assert "groups left: 0 of" in (tmp_path / "run.log").read_text()
    assert [trial.state for trial in read_study(folder).trials] == [TrialState.RUNNING]
    assert epochs(folder, 0) == list(range(1, len(epochs(folder, 0)) + 1))


@pytest.mark.cluster
def test_a_lost_head_and_its_folder_cost_no_result(
    machines: Machines, store: Store, tmp_path: Path, storage: Storage
) -> None:
    folder = new_sweep(tmp_path / "run", 3, epochs=10, storage=storage.uri)
    driver = machines.sweep(folder, store, WHOLE_SWEEP)
    study = folder / JOURNAL
    wait_for(lambda: study.exists() and '"op_code":6' in study.read_text(), driver)  # a trial has ended
    wait_for(lambda: len(read_study(folder).trials) > 2, driver)  # and it was kept: another has begun
    driver.kill()
    driver.wait()
    before = finished_trials(read_study(folder))  # now: a study reads its file when it is asked
    shutil.rmtree(folder)

    fetch_run(storage, folder)
    kept = {trial.number: trial for trial in read_study(folder).trials}
    ended = [trial for trial in before if trial == kept.get(trial.number)]
    assert len(ended) >= max(len(before) - 1, 1)  # one may end just when the head dies
    assert machines.sweep(folder, store, WHOLE_SWEEP).wait(300) == 0, (tmp_path / "run.log").read_text()
    after = read_study(folder)
    assert len(after.trials) == len(finished_trials(after)) == 3
    for trial in ended:
        assert after.trials[trial.number].values == trial.values
        assert len(epochs(folder, trial.number)) == trial.user_attrs["epochs"]
    complete = next(trial for trial in after.trials if trial.state == TrialState.COMPLETE)
    assert equals_an_undisturbed_run(folder, complete.number, store, tmp_path / "again")


@pytest.mark.cluster
def test_tries_count_from_the_last_epoch_and_who_has_none_left_is_named(
    small_store: Store, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sweep", "placement"):  # two tries: each starts a process
        monkeypatch.setattr(f"raygap.search.{module}.RETRIES", 1)
    folder = new_sweep(tmp_path / "run", 3)
    plan = Plan("small", None, 3, SMALL, SPACE, "", test_seeds=0)
    with mock.patch.object(sweep, "SweepTrial", DyingTrial):
        study = sweep.run_trials(plan, folder, small_store.path)
    hopeless, unlucky, faulty = (study.trials[number] for number in (HOPELESS, UNLUCKY, FAULTY))
    assert hopeless.state == TrialState.FAIL
    assert len((trial_folder(folder, HOPELESS) / "deaths").read_bytes()) == 2
    assert unlucky.state == TrialState.COMPLETE
    assert len((trial_folder(folder, UNLUCKY) / "deaths").read_bytes()) == 2
    assert equals_an_undisturbed_run(folder, UNLUCKY, small_store, tmp_path / "again")
    assert faulty.state == TrialState.FAIL
    died, raised = Outcome(study, False, None, None, None).failures()
    assert died.startswith("Trial 0 failed: its processes died 2 times without finishing an epoch in between; see /")
    assert raised.startswith("Trial 2 failed: ValueError: no such device")
    assert all(Path(line.rpartition(" see ")[2]).exists() for line in (died, raised))


def test_a_folder_that_refuses_for_too_long_is_named_in_one_line(ray_cluster: None) -> None:
    class Refused:
        def fit(self) -> None:  # as Tune wraps what its callbacks raise
            try:
                Path("/dev/null/study.journal").write_text("")
            except OSError as error:
                raise TuneError(f"Traceback\n{error}")  # noqa: B904

    with pytest.raises(UserError, match=r"^\[Errno 20\] .*/dev/null/study\.journal.*go on with --resume$"):
        fit(Refused())
