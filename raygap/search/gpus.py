"""--gpus-per-worker auto: how many trials share a GPU, by the memory that the first one took of it alone."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raygap.search.plan import AUTO, Plan

if TYPE_CHECKING:
    import optuna

GPU_MEMORY = "gpu_memory"
"""In the results of a trial, and then in the study: the share of its GPU's memory that is taken."""
USED_AT_MOST = 0.9
"""Of a GPU's memory, by all that share it: batches of other trials may be larger, and memory falls into pieces."""


def memory_taken() -> dict[str, Any]:
    """For a trial's results: what is taken of this process' GPU, by whatever is at work there; empty without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, whole = torch.cuda.mem_get_info()  # what torch keeps for later counts, so this is the most it ever took
    return {GPU_MEMORY: round(1 - free / whole, 4)}


def trials_a_gpu(taken: float) -> int:
    """How many trials fit on a GPU of which one takes this share.

    >>> trials_a_gpu(0.14), trials_a_gpu(0.5)
    (6, 1)
    """
    return max(math.floor(USED_AT_MOST / max(taken, 0.01)), 1)


def settled(plan: Plan, study: "optuna.Study") -> Plan:
    """The plan with a number in place of auto, as soon as the study's first trial has told one."""
    taken = study.user_attrs.get(GPU_MEMORY)
    if plan.gpus_per_worker != AUTO or not taken:
        return plan
    return replace(plan, gpus_per_worker=math.floor(1000 / trials_a_gpu(taken)) / 1000)


def in_words(taken: float) -> str:
    """A line on it."""
    several, share = trials_a_gpu(taken), f"{taken:.0%} of a GPU's memory"
    if several == 1:
        return f"the first trial took {share}: each gets one of its own"
    return f"the first trial took {share}: {several} share one"
