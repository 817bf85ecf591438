"""Which Ray a command works on: one of its own on this machine, unless it is told of a cluster.

Ray is imported where it is used: an address that cannot be one is refused before.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from raygap.called import command
from raygap.errors import UserError, first_line
from raygap.private import private_folder

ANSWERS_WITHIN = 5.0
"""Seconds for a cluster to answer; Ray itself would try for many minutes."""
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of HTTP/2, which Ray speaks, begins; the server answers with a frame of the same kind, 4."""
SOCKETS = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
"""The longest name of a socket below the folder for Ray's files."""
SOCKET_NAME = 103 if sys.platform == "darwin" else 107
"""Bytes that the system allows a socket's name."""
SHORT = "/tmp"


def start_ray(dashboard: bool = True) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start a Ray on this machine; nothing if Ray is running.

    Without RAY_ADDRESS it joins nobody's: whatever `ray start` has left on a machine may be old, small, or another's.
    The dashboard of a Ray of our own costs five seconds of CPU time; trials of several workers need it, since Ray asks
    its State API for their leftovers. Leaves the handler of SIGTERM as it was.

    Raises UserError if the cluster does not answer, or Ray does not start.
    """
    import ray
    import torch
    from joblib import cpu_count

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # Tune's new output engine prints tables even at verbose=0
    if ray.is_initialized():
        return
    # Ray's coming default: tasks that ask for no GPU see what the machine has.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = find_cluster()
    handler = signal.getsignal(signal.SIGTERM)
    # Slurm sends it to all processes. Ray's take the mask over and stay, until the trials are stopped and noted.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        if address:
            ray.init(address, **options)
        else:
            # Ray's own count of CPUs knows of no affinity (Slurm, cpusets).
            gpus = None if torch.cuda.is_available() else 0  # those that torch cannot use would stand idle
            options |= {"num_cpus": cpu_count(), "num_gpus": gpus, "include_dashboard": dashboard}
            ray.init("local", _temp_dir=_ray_folder(), **options)
            _end_at_once()
    except Exception as error:
        if address:
            raise UserError(f"the Ray cluster at {address} did not take this process: {first_line(error)}") from None
        raise UserError(f"Ray did not start: {first_line(error)}; try again, or with less else at work here") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _end_at_once() -> None:
    """Have our Ray's processes killed when it ends, with all that they have started: of SIGTERM they do not hear, Ray
    waits a second for each, and its agents wait a minute for who is dead by then.
    """
    from ray._private import worker

    node: Any = worker._global_node  # its module is not typed
    for started in node.all_processes.values():
        for one in started:
            one.process.terminate = partial(_kill, one.process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    import psutil  # it comes with Ray

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def use_cluster(given: str | None) -> None:
    """Let start_ray use the cluster that --address names, `given`, or else RAY_ADDRESS; see find_cluster."""
    if address := find_cluster(given):
        os.environ["RAY_ADDRESS"] = address
    else:
        os.environ.pop("RAY_ADDRESS", None)


def which_ray() -> str:
    """The Ray that start_ray uses, in words."""
    if address := os.environ.get("RAY_ADDRESS"):
        return f"on the Ray cluster at {address}"
    other = next((f"; --address auto uses the cluster at {one}" for one in _noted() if not _problem(one)), "")
    return f"on a Ray of its own{other}"


def find_cluster(given: str | None = None) -> str | None:
    """HOST:PORT of the cluster that --address names, `given`, or else RAY_ADDRESS, which answers there; None if neither
    names one.

    `auto` is what RAY_ADDRESS names, else the cluster on this machine. Raises UserError if none answers.
    """
    named = os.environ.get("RAY_ADDRESS") or "local"
    if given == "auto" and ":" in named:
        given = None
    address, said = given or named, f"--address {given}" if given else f"RAY_ADDRESS={named}"
    if address == "local":
        return None
    if address == "auto":
        return _on_this_machine(said)
    if "://" in address:
        raise UserError(
            f"{said}: not the address of a cluster's head, HOST:PORT; with its dashboard's http address, "
            f"`{command('submit', '--address', 'http://HOST:8265')}` sends a sweep to it"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{said}: expected HOST:PORT as the head's `ray start` prints it, or auto")
    if problem := _problem(address):
        mend = "give another one" if given else "unset it to start a Ray on this machine"
        raise UserError(f"{said}: no Ray cluster answers ({problem}); start one with `ray start`, or {mend}")
    return address


def _on_this_machine(said: str) -> str:
    """Of the cluster that `ray start` was called for last, or of any other."""
    from ray._common.utils import get_ray_address_file
    from ray._private.services import find_gcs_addresses

    noted = _noted()
    for address in (*noted, *find_gcs_addresses()):
        if not _problem(address):
            return address
    left = f"; {get_ray_address_file(None)} names {noted[0]}, which is gone: delete that file" if noted else ""
    raise UserError(f"{said}: no Ray cluster answers on this machine; start one with `ray start --head`{left}")


def _noted() -> list[str]:
    """What the last `ray start` on this machine has left; it may be gone since."""
    from ray._common.utils import get_ray_address_file

    with suppress(OSError):
        return [Path(get_ray_address_file(None)).read_text().strip()]
    return []


def _problem(address: str) -> str | None:
    """Why no cluster can be there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN) as there:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return None
            there.sendall(HELLO)
            answer = there.recv(9, socket.MSG_WAITALL)
            return None if answer[3:4] == b"\4" else "what answers there is not Ray"
    except (OSError, UnicodeError) as error:  # a host's name may be none
        return getattr(error, "strerror", None) or first_line(error)


def _ray_folder() -> str:
    """For the files of a Ray of our own, shut to others. In a long one, as Slurm gives to jobs, Ray cannot start."""
    from ray._common.utils import get_default_system_temp_dir

    folder = get_default_system_temp_dir()
    if len(os.fsencode(f"{folder}/raygap-12345678{SOCKETS}")) > SOCKET_NAME:
        logging.getLogger("raygap").warning(
            "%s: too long a name for Ray's sockets; Ray's files go to %s, or to a folder that RAY_TMPDIR names",
            folder,
            SHORT,
        )
        folder = SHORT
    return str(private_folder(Path(folder)) / "ray")
