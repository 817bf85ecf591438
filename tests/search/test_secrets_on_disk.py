"""No secret of the environment reaches a file, and nobody else may read what Ray writes."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import ray
from planted import leaks, plant
from ray.tune.execution.class_cache import _ActorClassCache
from wandb_server import EVERY_EPOCH, WandbServer, wandb_server

from raygap.data.store import Store
from raygap.private import private_folder
from raygap.search.journal import open_storage
from raygap.search.lent_keys import borrow_keys, keep_from_runtime_environments, lend_keys
from raygap.search.study import STUDY
from raygap.tracking.run_folder import JOURNAL

REPOSITORY = Path(__file__).parents[2]
SWEEPS = """
import sys
from pathlib import Path
from stores import SMALL
from raygap.search.job import run_sweep
from raygap.search.plan import Plan, make_folder, write_plan

for name, wandb, workers, seeds in (("one", "offline", 1, 1), ("several", "online", 2, 0)):
    short = {"method": "gmm_adaptive", "epochs": 2, "warmup.epochs": 1, "purify.epochs": 0}
    fixed, space = SMALL | short | {"compute.workers": workers}, {"loss.focus": {"uniform": [0, 5]}}
    more = {"test_seeds": seeds, "references": False, "wandb": wandb, "cpus_per_worker": 0.5}
    plan = Plan("small", None, 1, fixed, space, "", **more)
    make_folder(Path(name), new=True)
    write_plan(plan, Path(name))
    outcome = run_sweep(plan, Path(name), Path(sys.argv[1]), 1, None, lambda seed, metrics: None)
    assert outcome.best, outcome.failures()
    print(outcome.failures(), outcome.about_gaps)
"""


@dataclass
class Swept:
    """Two sweeps, the second of several workers and logged as it goes, by a user with secrets in all places."""

    machine: Path
    """A folder with everything that the user has: home, temporary files, what is written at work."""
    server: WandbServer
    planted: dict[str, str]


def clone(folder: Path, remote: str) -> Path:
    """A clone of raygap with this remote."""
    shutil.copytree(REPOSITORY / "raygap", folder / "raygap", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@127.0.0.1"]
    for command in (["init", "-q"], ["remote", "add", "origin", remote], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(git + command, check=True)
    return folder


@pytest.fixture(scope="module")
def swept(small_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """On a Ray of their own."""
    environment, planted = plant()
    planted |= {"remote": "planted-in-the-remote", "address": "planted-in-the-address"}
    code = clone(tmp_path_factory.mktemp("code"), f"https://me:{planted['remote']}@127.0.0.1:9/own.git")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WANDB_", "RAY_"))}
    # A short name, as Ray's sockets want it.
    with tempfile.TemporaryDirectory(prefix="rg") as folder, wandb_server() as server:
        machine = Path(folder)
        for name in ("home", "tmp", "work"):
            (machine / name).mkdir()
        environment |= {
            "HOME": str(machine / "home"),
            "TMPDIR": str(machine / "tmp"),
            "PYTHONPATH": os.pathsep.join(map(str, (code, REPOSITORY / "tests"))),
            "WANDB_BASE_URL": server.url.replace("//", f"//me:{planted['address']}@"),
        }
        result = subprocess.run(
            [sys.executable, "-c", SWEEPS, str(small_store.path)],
            cwd=machine / "work",
            env=kept | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert "W&B: " in result.stderr
        (machine / "work" / "said").write_text(result.stdout + result.stderr)
        yield Swept(machine, server, planted)


@pytest.mark.cluster
def test_sweeps_on_this_machine(swept: Swept) -> None:
    machine, server = swept.machine, swept.server
    (machine / "work" / "sent").write_text(repr([vars(run) for run in server.runs.values()]))
    for name, content in server.files.items():
        (machine / "work" / f"sent-{name.replace('/', '-')}").write_bytes(content)
    assert leaks(swept.planted, machine, at_least=50) == []
    [session] = (machine / "tmp").rglob("session_2*")
    below = [place for place in session.parents if machine in place.parents]
    assert any(stat.S_IMODE(place.stat().st_mode) == 0o700 for place in below), "the session is open to others"


@pytest.mark.cluster
def test_trials_of_several_workers_are_logged_as_others_are(swept: Swept) -> None:
    [run] = swept.server.runs.values()
    assert run.steps() == [1, 2]
    storage = open_storage(swept.machine / "work" / "several" / JOURNAL)
    [told] = optuna.load_study(study_name=STUDY, storage=storage).trials
    assert run.summary["best_val_accuracy"] == told.value
    assert run.summary["trial_state"] == "complete"
    assert all(json.loads(line).keys() >= EVERY_EPOCH for line in run.history)
    assert not {"node_ip", "hostname", "pid", "checkpoint_path"} & json.loads(run.history[-1]).keys()


def test_tune_puts_no_secret_into_runtime_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails with a new Ray: look in its class_cache.py for what goes into a trial's runtime environment, and
    have keep_from_runtime_environments take the secrets out of that; it is the one place that knows of it."""
    environment, planted = plant()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.7")
    keep_from_runtime_environments()
    asked = vars(_ActorClassCache().get(type("Trainable", (), {})))["_default_options"]["runtime_env"]
    assert asked["env_vars"]["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.7", "the rest still goes there"
    assert not [name for name, secret in planted.items() if secret in str(asked)]


def test_trials_borrow_the_keys_that_their_machine_has_not(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(*names: str) -> list[str | None]:
        borrow_keys()
        return [os.environ.get(name) for name in names]

    asked = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY")
    environment, planted = plant()
    for name in asked:
        monkeypatch.setenv(name, environment[name])
    lend_keys()
    trial = ray.remote(max_calls=1)(keys).remote(*asked)
    assert ray.get(trial) == [*(planted[name] for name in asked[:3]), None], "the key of W&B is none of theirs"
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert leaks({name: planted[name] for name in asked}, session, at_least=10) == []


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "shared")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    assert private_folder(tmp_path / "shared") == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)  # somebody was here first
    other = private_folder(tmp_path / "shared")
    assert other != folder
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
