"""Starting Ray, and how many trials fit at a time."""

import logging
import math
import os

import ray
import torch

from raygap.errors import UserError


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine; nothing if Ray is running."""
    if ray.is_initialized():
        return
    # Ray's coming default: tasks that ask for no GPU see what the machine has.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise UserError(f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: {str(error).splitlines()[0]}") from None


def nodes() -> list[dict[str, float]]:
    """CPU and GPU of each machine of the cluster, or, before Ray runs, of this one."""
    if ray.is_initialized():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}]


def default_concurrency(threads: int) -> int:
    """Trials at a time: one a GPU, or, without GPUs, one for each `threads` CPUs of a machine."""
    gpus = sum(int(node.get("GPU", 0)) for node in nodes())
    return gpus or max(sum(int(node.get("CPU", 0)) // threads for node in nodes()), 1)


def trial_resources(concurrency: int) -> dict[str, float]:
    """What each of `concurrency` trials asks for: an equal share of one machine.

    Only machines with GPUs count where there are any. So a trial always fits somewhere, and on a single machine no
    more than `concurrency` run at once.
    """
    with_gpu = [node for node in nodes() if node.get("GPU")]
    pool = with_gpu or [node for node in nodes() if node.get("CPU")]
    slots = math.ceil(concurrency / len(pool))
    share = {"CPU": max(math.floor(min(node.get("CPU", 0) for node in pool) / slots * 1000) / 1000, 0.001)}
    if with_gpu:
        gpus = min(node["GPU"] for node in pool)
        # Ray gives out whole GPUs, or a fraction of one.
        share["GPU"] = gpus // slots if gpus >= slots else math.floor(gpus / slots * 1000) / 1000
    return share
