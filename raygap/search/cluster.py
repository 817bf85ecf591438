"""Starting Ray, and how many trials fit at a time."""

import logging
import os

import ray
import torch


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine; nothing if Ray is running."""
    if ray.is_initialized():
        return
    if not os.environ.get("RAY_ADDRESS"):
        # Under `uv run`, Ray would build a second environment for its workers. On this machine they use this one; on
        # a cluster of other machines the second environment is what is wanted.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray's coming default: tasks that ask for no GPU see what the machine has.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(log_to_driver=False, logging_level=logging.ERROR)


def capacity() -> dict[str, int]:
    """CPUs and GPUs of the cluster, or, before Ray runs, of this machine."""
    if ray.is_initialized():
        cluster = ray.cluster_resources()
        return {"CPU": int(cluster.get("CPU", 0)), "GPU": int(cluster.get("GPU", 0))}
    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}


def default_concurrency(threads: int) -> int:
    """Trials at a time: one a GPU, or, without GPUs, one for each `threads` CPUs."""
    available = capacity()
    return max(available["GPU"] or available["CPU"] // threads, 1)


def trial_resources(concurrency: int) -> dict[str, float]:
    """An equal share of all CPUs and GPUs for each of `concurrency` trials: Ray then never runs more at once."""
    shares = {name: int(count / concurrency * 1000) / 1000 for name, count in capacity().items()}
    return {name: share for name, share in shares.items() if share > 0}
