"""Which Ray is used, and what is said where none answers; one sweep on a Ray of its own, ended from outside."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import ray

from raygap.errors import UserError
from raygap.search import ray_start
from raygap.search.placement import nodes
from raygap.search.ray_start import _ray_folder, find_cluster, use_cluster, which_ray

import psutil  # isort: skip  (Ray's own, which importing Ray makes known)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has called `ray start` on this machine, nor named a cluster."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    nobody = mock.Mock(return_value=set())
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", nobody)
    monkeypatch.setattr(ray_start, "ANSWERS_WITHIN", 0.3)


def leave_address(tmp_path: Path, address: str) -> Path:
    """As `ray start` does, also if Ray has crashed since."""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(address)
    return file


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster answers \(Connection refused\); start one"),
        ("http://127.0.0.1:8265", "`raygap submit --address http://HOST:8265`"),
        ("ray://127.0.0.1:10001", "not the address of a cluster's head"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:gcs", "expected HOST:PORT"),
        ("127.0.0.1:99999", "expected HOST:PORT"),
        ("no..host:6379", "no Ray cluster answers"),
    ],
)
def test_an_address_without_a_cluster_is_named_with_where_it_was_given(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"^--address {address}: .*{message}"):
        find_cluster(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # whatever other tests have started
    with pytest.raises(UserError, match=f"^RAY_ADDRESS={address}: .*{message}") as error:
        nodes()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_something_else_at_a_clusters_port_is_not_waited_for(answer: bytes | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            there, _ = server.accept()
            with there:
                there.recv(100)
                there.sendall(answer)

        if answer:
            threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(UserError, match="no Ray cluster answers"):
            find_cluster(f"127.0.0.1:{port}")


def test_what_ray_start_has_left_is_joined_only_if_asked_for(tmp_path: Path, ray_cluster: None) -> None:
    there = ray.get_runtime_context().gcs_address
    file = leave_address(tmp_path, "127.0.0.1:1")
    assert find_cluster() is None
    assert which_ray() == "on a Ray of its own"
    with pytest.raises(UserError, match=f"--address auto: .*{file} names 127.0.0.1:1, which is gone: delete that file"):
        find_cluster("auto")
    file.write_text(there)
    assert find_cluster() is None
    assert which_ray() == f"on a Ray of its own; --address auto uses the cluster at {there}"
    use_cluster("auto")
    assert which_ray() == f"on the Ray cluster at {there}"
    assert find_cluster("auto") == find_cluster() == there
    use_cluster("local")
    assert find_cluster() is None


def test_an_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert nodes()[0]["CPU"] == 1


def test_a_folder_too_long_for_sockets_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert _ray_folder() == f"{short}/raygap-{os.getuid()}/ray"
    shutil.rmtree(short)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 20)))
    assert _ray_folder() == f"/tmp/raygap-{os.getuid()}/ray"
    assert "RAY_TMPDIR" in caplog.text


ENDS = """
import subprocess
import ray
import psutil
from raygap.search.ray_start import start_ray

start_ray(dashboard=False)
started = psutil.Process().children(recursive=True)
wait, unheeded = subprocess.Popen.wait, []


def patient(process, timeout=None):
    try:
        return wait(process, 60)
    except subprocess.TimeoutExpired:
        unheeded.append(process.args)
        raise


subprocess.Popen.wait = patient
ray.shutdown()
print(len(started) > 3, unheeded, psutil.wait_procs(started, timeout=60)[1])
"""


@pytest.mark.cluster
def test_a_ray_of_its_own_ends_without_waiting_for_processes_that_do_not_heed_it() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.stdout == "True [] []\n", ended.stderr


@pytest.mark.cluster
def test_a_sweep_on_a_ray_of_its_own_ends_with_a_summary_when_everything_gets_sigterm(
    data_set: Path, tmp_path: Path
) -> None:
    """As Slurm does it, which also gives a job a long TMPDIR and some of the machine's cores."""
    long = tmp_path / ("job" * 30)
    long.mkdir()
    run = tmp_path / "run"
    command = [sys.executable, REPOSITORY / "launch" / "sweep.py", "--dataset", "manifest", "--root", data_set]
    # A plain method: a guided one's scoring trainings of so many epochs would come before its first epoch.
    command += ["--method", "joint", "--trials", "2", "--epochs", "900", "--test-seeds", "0", "--out", run]
    command += ["--cache", tmp_path / "cache"]
    for field in ("prepare.frame_size=16", "prepare.frames=1", "model.width=4", "warmup.epochs=0"):
        command += ["--set", field]
    variables = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    one = {min(os.sched_getaffinity(0))}
    sweep = subprocess.Popen(
        [str(word) for word in command],
        env=variables | {"TMPDIR": str(long), "PYTHONPATH": str(REPOSITORY)},
        preexec_fn=lambda: os.sched_setaffinity(0, one),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 200
    while not list(run.glob("trials/*/metrics.parquet")):
        assert sweep.poll() is None, sweep.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(list(run.glob("trials/*"))) == 1, "one core, one trial"
    for process in [*psutil.Process(sweep.pid).children(recursive=True), psutil.Process(sweep.pid)]:
        process.send_signal(signal.SIGTERM)
    said = sweep.communicate(timeout=400)[0]
    assert sweep.returncode == 143, said
    assert f"go on with: python launch/sweep.py --dataset manifest --out {run} --resume" in said
    assert "too long a name for Ray's sockets" in said
    assert "SIGTERM received" not in said
    assert "Traceback" not in said
