"""Sending a sweep to a running Ray cluster through its Jobs API, following it, and fetching what it leaves.

Ray is imported where it is used: options are checked before.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import os
import re
import shlex
import time
import tomllib
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import requests
from packaging.requirements import Requirement

from raygap.cluster.job_secrets import leave
from raygap.errors import UserError, first_line
from raygap.plugins import LOADED, is_installed, load_plugin, own_code
from raygap.tracking.run_folder import BEST, REPORT, TRIALS

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

Environment = Literal["cluster", "uv"]

SENT = ("raygap", "search_spaces", "pyproject.toml", "uv.lock", "README.md", "LICENSE")
"""What of a checkout travels; of an installed raygap, its package alone. Named, so that no data, run or key lying
beside it travels by accident."""
SPACE = "space.yaml"
"""Name in the package of a search space of one's own."""
LIMIT = 100 * 2**20
"""Bytes that a cluster's dashboard takes in one request."""
RUN = "raygap_run"
"""Key in a job's metadata: its run folder in the cluster."""
OWN_CODE = "raygap_own_code"
"""Key in a job's metadata: names of the code of its user's own, by comma."""
FETCHED = (BEST, REPORT, TRIALS, "shared.yaml", "shared.csv")
"""What comes back, of each data set and of all together."""

_UV = 'uv run --locked --no-dev --all-extras --python "$(command -v python3)" python'
_VARIABLES = {
    # To stop a job is to press Ctrl-C: the sweep writes what it has, and can be resumed.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    # The job says which Python its workers use; Ray is not to guess it from a `uv run` further up.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_TRIES = 10
"""Attempts at reaching a cluster again, with some seconds between."""
_MARK = "raygap-files:"
_SEND_BACK = f"""
import base64, gzip, json, pathlib, sys
folder = pathlib.Path(sys.argv[1]).expanduser()
files = [file for name in sys.argv[2:] for place in (name, "*/" + name) for file in folder.glob(place)]
packed = [base64.b64encode(gzip.compress(file.read_bytes())).decode() for file in files]
print("{_MARK}" + json.dumps(dict(zip([file.relative_to(folder).as_posix() for file in files], packed))))
"""
"""Runs in the cluster with nothing but Python, so that files can be fetched when the sweep's environment is gone."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard has this address.

    Raises UserError if nothing answers there, if it is no Ray dashboard or one of a Ray that raygap does not run on,
    and if the token is missing or wrong.
    """
    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: expected the dashboard's address, for example http://HEAD:8265")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they tell of each request
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    os.environ["RAY_API_SERVER_ADDRESS"] = address = address.rstrip("/")  # Ray lets it, and RAY_ADDRESS, win
    try:
        requests.get(f"{address}/api/version", timeout=10)  # the client itself would wait for minutes
        client = JobSubmissionClient(address)
        version = _ray_version(client)
    except AuthenticationError as error:
        raise UserError(f"{address}: {_about_token(str(error))}") from None
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError) as error:
        raise UserError(f"--address {address}: {first_line(error)}") from None
    except (ConnectionError, requests.ConnectionError, requests.Timeout):
        raise UserError(
            f"--address {address}: nothing answers there; the head's `ray start` prints its dashboard's address"
        ) from None
    except (requests.RequestException, LookupError, TypeError):
        raise UserError(f"--address {address}: what answers there is not the dashboard of a Ray cluster") from None
    except RuntimeError as error:
        raise UserError(f"--address {address}: {first_line(error)}") from None
    needed = next(needed for needed in map(Requirement, requires("raygap") or []) if needed.name == "ray").specifier
    if version not in needed:
        raise UserError(f"{address}: the cluster runs Ray {version}, raygap needs {needed}; start it with such a Ray")
    return client


def _ray_version(client: JobSubmissionClient) -> str:
    return client._do_request("GET", "/api/version").json()["ray_version"]


def check_uv(client: JobSubmissionClient, lock: Path) -> None:
    """Raise UserError if no environment made from this uv.lock can work on the cluster: its jobs would never start."""
    if not lock.is_file():
        raise UserError(
            f"--environment uv: {lock.parent} has no uv.lock, as only checkouts do; use --environment cluster"
        )
    from ray.job_submission import JobStatus

    locked = next(
        package["version"]
        for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]
        if package["name"] == "ray"
    )
    if (version := _ray_version(client)) != locked:
        raise UserError(
            f"--environment uv: the cluster runs Ray {version}, {lock.name} has {locked}, and they must be the same; "
            f"start the cluster with Ray {locked}, or use --environment cluster"
        )
    if _run_aside(client, "command -v uv")[0].status != JobStatus.SUCCEEDED:
        raise UserError("--environment uv: the head has no uv; install it on each node, or use --environment cluster")


def _about_token(message: str) -> str:
    if "Forbidden" in message:
        return "the token is not that of the cluster; give the cluster's in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return "the cluster asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the token's file"
    return (
        "RAY_AUTH_MODE=token, but no token is found; put it into ~/.ray/auth_token, into a file that "
        "RAY_AUTH_TOKEN_PATH names, or into RAY_AUTH_TOKEN"
    )


def pack(code: Path, package: Path, space: Path | None = None) -> None:
    """Write the zip file that a job runs from: raygap's code, from a checkout or where it is installed, a search space
    of one's own as SPACE, and what of one's own this process has loaded (method, encoder, reader), unless installed.

    Raises UserError, naming the largest files, if it is too large to send.
    """
    files = {SPACE: space} if space else {}
    for module in set(LOADED.values()):
        if not is_installed(module):  # the job's working directory is where it is looked for by this name
            files |= own_code(module)
    for name in SENT if (code / "pyproject.toml").exists() else SENT[:1]:
        for file in sorted((code / name).rglob("*")) if (code / name).is_dir() else [code / name]:
            inside = file.relative_to(code)
            if file.is_file() and not any(part.startswith((".", "__pycache__")) for part in inside.parts):
                files[inside.as_posix()] = file
    with ZipFile(package, "w") as archive:
        for name, file in files.items():
            # Without times: the same code is the same package, which the cluster may have already.
            archive.writestr(ZipInfo(name), file.read_bytes(), ZIP_DEFLATED)
        sizes = {info.filename: info.compress_size for info in archive.infolist()}
    size = package.stat().st_size
    if size > LIMIT:
        largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
        raise UserError(
            f"{code}: the code to send has {size / 2**20:.0f} MiB, a cluster takes {LIMIT / 2**20:.0f}; move out "
            + ", ".join(f"{name} ({sizes[name] / 2**20:.0f} MiB)" for name in largest)
        )


def submit(
    client: JobSubmissionClient,
    command: list[str],
    package: Path,
    environment: Environment,
    variables: dict[str, str],
    metadata: dict[str, str],
) -> str:
    """Start a command in the cluster, in a copy of the package; returns the submission id.

    `environment`: the Python that the cluster runs on, or one that uv makes from uv.lock on each node. `variables` are
    seen by the command's process alone, and by nobody who looks at the job. A ~ that starts an argument is the home
    folder in the cluster.
    """
    runtime_env = {"working_dir": str(package), "env_vars": _VARIABLES}
    if environment == "uv":
        runtime_env["py_executable"] = _UV
    if variables:
        command = ["python3", "-m", "raygap.cluster.job_secrets", leave(client, variables), *command]
    return _start(client, entrypoint=shell_line(command), runtime_env=runtime_env, metadata=metadata)


def _start(client: JobSubmissionClient, **job: Any) -> str:
    """Start a job. A cluster that is just starting takes none for some seconds."""
    tries = 0
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            tries += 1
            if "No available agent" not in str(error) or tries == 5:
                raise UserError(f"the cluster refused the job: {first_line(error)}") from None
        time.sleep(tries)


def shell_line(command: list[str]) -> str:
    """The command for a shell, which is to put in its own home folder for a leading ~/."""
    return " ".join(f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word) for word in command)


def look_up(client: JobSubmissionClient, job: str) -> JobDetails:
    """What the cluster knows of a job. Raises UserError if it knows of none with this id."""
    from ray.job_submission import JobType

    try:
        info = client.get_job_info(job)
    except RuntimeError as error:
        if "404" not in first_line(error):
            raise UserError(f"{job}: {first_line(error)}") from None
    else:
        if info.type == JobType.SUBMISSION:
            return info
    raise UserError(f"{job}: no such job; `ray job list --address {client.get_address()}` shows those of the cluster")


def describe(info: JobDetails) -> str:
    """One line: state, times and run folder."""
    from ray.job_submission import JobStatus

    began, ended = (ms and datetime.fromtimestamp(ms / 1000) for ms in (info.start_time, info.end_time))
    times = f"since {began:%Y-%m-%d %H:%M}" if not ended else f"{began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M}"
    about = f"{info.submission_id}: {info.status.value}, {times}, {(info.metadata or {}).get(RUN, 'not a sweep')}"
    if info.status != JobStatus.FAILED:
        return about
    code = info.driver_exit_code
    return f"{about}; {(info.message or '').partition(chr(10))[0] if code is None else f'exit code {code}'}"


def follow(client: JobSubmissionClient, job: str, show: Callable[[str], None]) -> JobDetails:
    """Pass a job's log on until the job ends, from the beginning, each character once.

    A connection that breaks is made again. Raises UserError if the cluster cannot be reached any more.
    """
    import aiohttp

    shown = failed = 0

    async def tail() -> None:
        nonlocal shown, failed
        seen = 0
        async for text in client.tail_job_logs(job):
            show(text[max(shown - seen, 0) :])
            seen += len(text)
            shown, failed = max(shown, seen), 0

    while True:
        try:
            asyncio.run(tail())
            if (info := look_up(client, job)).status.is_terminal():
                return info
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            failed += 1
            if failed == _TRIES:
                raise UserError(
                    f"{client.get_address()}: cannot be reached any more ({first_line(error)}); the job may go on"
                ) from None
        time.sleep(1 + failed)


def load_own_code(client: JobSubmissionClient, run: str) -> None:
    """Load the code of one's own that earlier jobs of a run folder had, so that it is sent again.

    Raises UserError if some of it is not here.
    """
    for job in client.list_jobs():
        metadata = job.metadata or {}
        for name in metadata.get(OWN_CODE, "").split(",") if metadata.get(RUN) == run else ():
            if name:
                load_plugin(name, f"{run} needs")


def stop(client: JobSubmissionClient, job: str) -> JobDetails:
    """Stop a job as Ctrl-C would, and wait until it has ended. One that has ended already is left as it is."""
    look_up(client, job)
    client.stop_job(job)
    return wait(client, job, 120)


def wait(client: JobSubmissionClient, job: str, seconds: float) -> JobDetails:
    """Wait until a job has ended. Raises UserError if it takes longer."""
    deadline = time.monotonic() + seconds
    while not (info := look_up(client, job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise UserError(f"{job}: still {info.status.value} after {seconds:.0f} seconds")
        time.sleep(0.5)
    return info


def fetch(client: JobSubmissionClient, info: JobDetails, folder: Path) -> list[Path]:
    """Bring what people read of a sweep's results from the cluster into `folder`: FETCHED, as far as there.

    A second, short job on the machine that the sweep's driver ran on prints them into its log, which the Jobs API
    hands out: no shared disk is needed. Raises UserError if that job fails.
    """
    from ray.job_submission import JobStatus

    where = {"ray.io/node-id": info.driver_node_id} if info.driver_node_id else None
    helper, log = _run_aside(client, shlex.join(["python3", "-c", _SEND_BACK, info.metadata[RUN], *FETCHED]), where)
    marked = [line for line in log.splitlines() if line.startswith(_MARK)]
    if helper.status != JobStatus.SUCCEEDED or not marked:
        said = log.strip().splitlines() or [f"the job that reads it: {helper.status.value}, and its log is empty"]
        raise UserError(f"{info.metadata[RUN]}: could not be read in the cluster ({said[-1]})")
    return unpack(json.loads(marked[-1].removeprefix(_MARK)), folder)


def _run_aside(
    client: JobSubmissionClient, command: str, where: dict[str, str] | None = None
) -> tuple[JobDetails, str]:
    """Run a short command in the cluster, without our code; how it ended, and its log."""
    job = _start(client, entrypoint=command, entrypoint_label_selector=where)
    return wait(client, job, 300), client.get_job_logs(job)


def missing_package(log: str) -> str | None:
    """Name of a package that the cluster's Python lacks, if the job has failed for that."""
    found = re.search(r"^ModuleNotFoundError: No module named '([\w.]+)'", log, re.MULTILINE)
    return found.group(1) if found else None


def unpack(content: dict[str, str], folder: Path) -> list[Path]:
    """Write packed files by name; those of a sweep of several data sets lie in a folder for each.

    Raises UserError for names that were not asked for, before anything is written: they may point anywhere.
    """
    for name in content:
        parts = Path(name).parts
        if len(parts) > 2 or parts[-1] not in FETCHED or {"..", "/"} & set(parts):
            raise UserError(f"{name}: not a file that was asked for; nothing is taken from this cluster")
    written = []
    for name, packed in content.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.decompress(base64.b64decode(packed)))
        written.append(file)
    return written
