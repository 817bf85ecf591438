"""prepare.py in a process of its own; tests/commands/test_commands.py has what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

COMMAND = Path(__file__).parents[2] / "launch" / "prepare.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=180, check=False
    )


def test_it_prepares_and_says_where(data_set, tmp_path):
    result = run("--dataset", "manifest", "--root", data_set, "--cache", tmp_path, "--set", "prepare.frame_size=8")
    assert (result.returncode, result.stderr) == (0, "")  # no library's warning among what a command says
    (store,) = tmp_path.glob("manifest-*")
    assert "clips: 8 train, 2 val, 2 test; 2 classes" in result.stdout
    assert store.name in result.stdout


@pytest.mark.cluster
def test_on_a_cluster_of_several_machines(data_set, tmp_path):
    # Three raylets of their own, as on three machines; the head decodes nothing.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        source = ["--dataset", "manifest", "--root", data_set, "--set", "prepare.frame_size=8"]
        result = run(*source, "--cache", tmp_path, "--address", cluster.address)
    finally:
        cluster.shutdown()
    assert result.returncode == 0, result.stderr
    assert "clips: 8 train, 2 val, 2 test; 2 classes" in result.stdout
