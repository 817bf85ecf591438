"""What a sweep depends on in a cluster, checked from inside it before hours are spent."""

import hashlib
import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import requests
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_nodes

import raygap
from raygap.errors import UserError, first_line
from raygap.extras import lacking
from raygap.private import without_passwords
from raygap.search.kept import check_storage
from raygap.search.lent_keys import borrow_keys, lend_keys
from raygap.search.ray_start import start_ray
from raygap.storage import Storage
from raygap.tracking.wandb.callback import asked_mode
from raygap.tracking.wandb.process import logged_in

PATIENCE = 180.0
"""Seconds for the nodes to answer; the first process with a new environment may have to install it."""
SIGHT = 10.0
"""Seconds until a file written on one node must be seen on another: network file systems take a moment."""


@dataclass(frozen=True)
class Check:
    """One line for the reader."""

    passed: bool
    about: str


def check_cluster(folders: dict[str, Path], storage: Storage | None, roots: list[Path]) -> Iterator[Check]:
    """Check the cluster that this process runs in, or starts: State API, nodes and GPUs, versions, folders, W&B.

    All nodes must share `folders`, and be able to write the object store `storage`, if it is given.
    """
    start_ray()
    if storage:
        lend_keys()
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    markers = {name: _leave_marker(folder) for name, folder in folders.items()}
    writable = {name: marker for name, marker in markers.items() if isinstance(marker, Path)}
    try:
        answers = _ask(nodes, list(writable.values()), storage)
        for node, answer in answers.items():
            yield _resources(_name(nodes[node]), nodes[node]["Resources"], answer)
        answered = {_name(nodes[node]): answer for node, answer in answers.items() if isinstance(answer, dict)}
        yield _state_api({name: answer["state_api"] for name, answer in answered.items()})
        yield _versions({name: answer["versions"] for name, answer in answered.items()})
        for name, folder in folders.items():
            if name in writable:
                seen = {node: answer["folders"][str(writable[name])] for node, answer in answered.items()}
                yield _shared(name, folder, seen, _seen_here(writable[name], len(answered)))
            else:
                yield Check(False, f"{name} {folder}: {markers[name]} on {socket.gethostname()}")
        if storage:
            yield _kept(storage.uri, {name: answer["storage"] for name, answer in answered.items()})
    finally:
        for marker in writable.values():
            for file in marker.parent.glob(f"{marker.name}*"):
                file.unlink(missing_ok=True)
    for root in roots:
        yield Check(root.exists(), f"root {root}: {'there' if root.exists() else 'no such file or folder on the head'}")
    yield weights_and_biases()


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})"


def _ask(nodes: dict[str, Any], markers: list[Path], storage: Storage | None) -> dict[str, dict[str, Any] | str]:
    """What each node answers, or why it does not, by node id."""
    environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}  # a task without GPU sees them all the same
    task = ray.remote(num_cpus=0, max_retries=0, runtime_env=environment)(_look)
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            [str(marker) for marker in markers], node, storage
        ): node
        for node in nodes
    }
    ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE)
    answers: dict[str, dict[str, Any] | str] = {}
    for answer, node in waiting.items():
        try:
            answers[node] = ray.get(answer) if answer in ready else f"no answer within {PATIENCE:.0f} seconds"
        except Exception as error:
            answers[node] = first_line(getattr(error, "cause", None) or error)
    return answers


def _look(markers: list[str], node: str, storage: Storage | None) -> dict[str, Any]:
    """Runs on each node: versions, devices, and what can be done in the markers' folders and in the object store."""
    code = hashlib.sha256()
    for file in sorted(Path(raygap.__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    folders = {}
    for name in markers:
        marker = Path(name)
        if not _appears(marker):
            folders[name] = "is another folder there than on the head"
            continue
        try:
            marker.with_name(f"{marker.name}-{node}").write_text(node)
            folders[name] = ""
        except OSError as error:
            folders[name] = f"cannot be written ({error.strerror})"
    kept = ""
    if storage:
        borrow_keys()
        try:
            check_storage(storage.at(f".preflight-{node}"), new=True)
        except UserError as error:
            kept = str(error)
    try:
        list_nodes(address=ray.get_runtime_context().gcs_address, limit=1, timeout=20)
        state_api = ""
    except Exception as error:
        state_api = f"no answer ({first_line(error)})"
    return {
        "state_api": state_api,
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "ray": ray.__version__,
            "raygap's code": code.hexdigest()[:8],
        },
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "folders": folders,
        "storage": kept,
    }


def _leave_marker(folder: Path) -> Path | str:
    """A new file in the folder, which is made where it is missing, or why there is none."""
    marker = folder.expanduser() / f".preflight-{secrets.token_hex(8)}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch(exist_ok=False)
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return marker


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + SIGHT
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _seen_here(marker: Path, count: int) -> int:
    """How many of the files that `count` nodes have written are seen here."""
    deadline = time.monotonic() + SIGHT
    while (seen := len(list(marker.parent.glob(f"{marker.name}-*")))) < count and time.monotonic() < deadline:
        time.sleep(0.5)
    return seen


def _resources(name: str, resources: dict[str, float], answer: dict[str, Any] | str) -> Check:
    if isinstance(answer, str):
        return Check(False, f"node {name}: {answer}")
    cpus, gpus, devices = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), answer["devices"]
    kinds = ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)) or "none"
    about = f"node {name}: {cpus} CPUs, {gpus} GPUs for Ray, {kinds} for torch"
    if gpus > len(devices):
        return Check(False, f"{about}; torch must see each GPU: see nvidia-smi there, and its CUDA version")
    return Check(True, about)


def _state_api(problems: dict[str, str]) -> Check:
    """`problems`: by node, empty where it answers. Ray frees what a stopped trial held by asking it."""
    bad = [f"on {node} {problem}" for node, problem in problems.items() if problem]
    if bad:
        return Check(
            False, f"State API: {'; '.join(bad)}; start the head with ray[default] and --dashboard-host=0.0.0.0"
        )
    return Check(True, f"State API: answers on {len(problems)} nodes")


def _versions(by_node: dict[str, dict[str, str]]) -> Check:
    """By node, then by package."""
    differing = []
    for package in dict.fromkeys(package for versions in by_node.values() for package in versions):
        found = {name: versions[package] for name, versions in by_node.items()}
        if len(set(found.values())) > 1:
            differing.append(f"{package} " + ", ".join(f"{value} on {name}" for name, value in found.items()))
    if differing:
        return Check(False, f"versions differ: {'; '.join(differing)}")
    same = next(iter(by_node.values()), {})
    about = ", ".join(f"{package} {value}" for package, value in same.items())
    return Check(bool(same), f"versions: {about} on {len(by_node)} nodes")


def _shared(name: str, folder: Path, problems: dict[str, str], seen_on_head: int) -> Check:
    """`problems`: by node, empty where there is none."""
    bad = {node: problem for node, problem in problems.items() if problem}
    if bad:
        return Check(False, f"{name} {folder}: " + "; ".join(f"on {node} {problem}" for node, problem in bad.items()))
    if seen_on_head < len(problems):
        return Check(False, f"{name} {folder}: the head sees what {seen_on_head} of {len(problems)} nodes write")
    return Check(True, f"{name} {folder}: written and read on {len(problems)} nodes")


def _kept(uri: str, problems: dict[str, str]) -> Check:
    """`problems`: by node, empty where there is none."""
    bad = [f"on {node} {problem}" for node, problem in problems.items() if problem]
    return Check(not bad, f"storage {uri}: " + ("; ".join(bad) or f"written on {len(problems)} nodes"))


def weights_and_biases() -> Check:
    """Whether runs can be logged from this machine; a sweep that logs offline needs nothing."""
    try:
        mode = asked_mode(None)
    except UserError as error:
        return Check(False, f"W&B: {error}")
    if mode != "disabled" and (lack := lacking("wandb", "its log")):
        return Check(mode is None, f"W&B: {lack}; without it, nothing is logged")
    if mode in ("offline", "disabled"):
        return Check(True, f"W&B: {mode}, as WANDB_MODE or WANDB_DISABLED says; nothing is sent")
    import wandb

    server = os.environ.get("WANDB_BASE_URL", wandb.Settings().base_url).rstrip("/")
    called = without_passwords(server)
    try:
        if not logged_in(server):
            return Check(True, "W&B: no key here, so runs are logged offline, into the run folder")
        key = os.environ.get("WANDB_API_KEY")
        answer = requests.post(  # without a key it takes that of the netrc file, as W&B's client does
            f"{server}/graphql",
            json={"query": "query Viewer { viewer { username } }"},
            auth=("api", key) if key else None,
            timeout=20,
        )
        viewer = answer.json()["data"]["viewer"]["username"]
    except requests.ConnectionError as error:
        return Check(
            False, f"W&B: {called} cannot be reached ({type(error).__name__}); WANDB_MODE=offline needs nothing"
        )
    except (requests.RequestException, wandb.errors.AuthenticationError, LookupError, TypeError) as error:
        return Check(False, f"W&B: {called} does not take the key ({without_passwords(first_line(error))})")
    return Check(True, f"W&B: {called} takes the key of {viewer}")
