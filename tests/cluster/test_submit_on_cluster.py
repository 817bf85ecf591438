"""launch/submit.py and a real cluster: two raylets of their own, behind a token."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from planted import leaks, plant

pytestmark = pytest.mark.cluster
REPOSITORY = Path(__file__).parents[2]
CLUSTER = """
import json, socket, sys, tempfile
from ray._common.utils import reset_ray_address
from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster
with socket.create_server(("", 0)) as free:
    port = free.getsockname()[1]  # Ray's own default may be taken by another Ray on this machine
with tempfile.TemporaryDirectory() as folder:
    head = {"num_cpus": 1, "object_store_memory": 10**8, "temp_dir": folder, "include_dashboard": True}
    cluster = Cluster(True, head_node_args={**head, "dashboard_port": 0, "dashboard_agent_listen_port": port})
    reset_ray_address()  # else the next ray.init() of other tests would join
    write_ray_address(cluster.address, folder)  # where its jobs look for it
    cluster.add_node(num_cpus=1, object_store_memory=10**8)
    cluster.wait_for_nodes()
    print(json.dumps(["http://" + cluster.head_node.webui_url, cluster.head_node.get_session_dir_path()]), flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""
"""Runs until its input ends. A process of its own, since Ray takes token and mode from a process's first use of it."""
SWEEP = ["--trials", "2", "--test-seeds", "1", "--no-references", "--concurrency", "1"]
SWEEP += [
    f"--set={field}"
    for field in ("prepare.frame_size=16", "model.width=4", "epochs=3", "warmup.epochs=1", "purify.epochs=0")
]


@dataclass
class Secured:
    """The cluster, and a user at another machine who has its token."""

    address: str
    session: Path
    environment: dict[str, str]
    home: Path
    """Where the user works."""
    planted: dict[str, str]
    """Secrets by the variable that holds each: of the user, and of the cluster's machines."""

    def submit(self, *arguments: Any, **environment: str) -> subprocess.CompletedProcess:
        """launch/submit.py."""
        return subprocess.run(
            [sys.executable, REPOSITORY / "launch" / "submit.py", "--address", self.address, *map(str, arguments)],
            cwd=self.home,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("user")
    (ours, planted), (theirs, others) = plant(), plant()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_raylet_start_wait_time_s": "120"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env={**os.environ, **theirs, **token, "PYTHONPATH": "", "PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    address, session = json.loads(next(line for line in process.stdout if line.startswith("[")))
    planted |= {"RAY_AUTH_TOKEN": token["RAY_AUTH_TOKEN"]}
    planted |= {f"{name} of the machines": secret for name, secret in others.items()}
    yield Secured(address, Path(session), {**os.environ, **ours, **token}, home, planted)
    process.stdin.close()
    process.wait(60)


def test_the_whole_way_of_a_sweep(secured: Secured, data_set: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    result = secured.submit("--storage", shared, "--preflight")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    for text in ("State API: answers on 2 nodes", "written and read on 2 nodes", "versions: Python"):
        assert any(text in line for line in lines), result.stdout

    sent = [f"--env={name}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")]
    where = ["--storage", shared, *sent, "--env", "WANDB_API_KEY", "--"]
    sweep = ["--dataset", "manifest", "--root", data_set, "--method", "gmm_scores", "--name", "first", *SWEEP]
    result = secured.submit(*where, *sweep)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[2/2] trial" in result.stdout, "the log was followed"
    fetched = secured.home / "runs" / "first"
    assert {file.name for file in fetched.iterdir()} == {"best.yaml", "report.html", "trials.csv"}
    assert (fetched / "best.yaml").read_text() == (shared / "runs" / "first" / "best.yaml").read_text()
    assert yaml.safe_load((fetched / "best.yaml").read_text())["method"] == "gmm_scores"

    job = result.stdout.partition("sent; ")[2].split()[0]
    status = secured.submit("--status", job)
    assert f"{job}: SUCCEEDED" in status.stdout

    # The sweep goes on: two more trials with what it knows.
    again = secured.submit(
        "--storage", shared, "--detach", "--", "--dataset", "manifest", "--resume", "--name", "first"
    )
    assert again.returncode == 0, again.stdout + again.stderr
    job = again.stdout.partition("sent; ")[2].split()[0]
    stopped = secured.submit("--stop", job)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert job in stopped.stdout
    assert_nowhere(secured, shared, data_set.parent)


def assert_nowhere(secured: Secured, *folders: Path) -> None:
    """What is planted is in no file that Ray, the sweep or the user's side wrote, and in nothing that jobs show."""
    headers = {"Authorization": f"Bearer {secured.environment['RAY_AUTH_TOKEN']}"}
    jobs = requests.get(f"{secured.address}/api/jobs/", headers=headers, timeout=20)
    assert jobs.status_code == 200
    assert "raygap_run" in jobs.text
    assert not [name for name, secret in secured.planted.items() if secret in jobs.text]
    assert leaks(secured.planted, secured.session, secured.home, *folders, at_least=50) == []


def test_without_the_token_nothing_is_told(secured: Secured) -> None:
    assert requests.get(f"{secured.address}/api/jobs/", timeout=20).status_code == 401
    result = secured.submit("--status", "raysubmit_x", RAY_AUTH_TOKEN="0" * 64)
    assert result.returncode == 2
    assert "the token is not that of the cluster" in result.stderr
    result = secured.submit("--status", "raysubmit_x", RAY_AUTH_MODE="disabled")
    assert "the cluster asks for a token; set RAY_AUTH_MODE=token" in result.stderr
    result = secured.submit("--status", "raysubmit_x")
    assert "raysubmit_x: no such job" in result.stderr
