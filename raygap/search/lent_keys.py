"""Keys of an object store that the sweep's own process has, and its trials on other machines have not.

Ray Tune would write them into each trial's runtime environment, and Ray that into a log. Here they go from memory to
memory: an actor beside the sweep's process holds them as long as that lives, and trials ask it.
"""

import os
from contextlib import suppress
from functools import lru_cache
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygap.private import is_secret

LENT = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"),
)
"""What pyarrow's file systems take from the environment; Google's is the path of a file."""
_NAME = "raygap_keys"


class _Lender:
    variables: dict[str, str]

    def lend(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def borrow(self) -> dict[str, str]:
        return self.variables


def lend_keys() -> None:
    """Let this job's trials borrow what this process has; nothing if it has none. Ray must be running."""
    if variables := {name: os.environ[name] for name in LENT if os.environ.get(name)}:
        context = ray.get_runtime_context()
        # By a call: what an actor is made with, the cluster keeps.
        ray.get(_lender(context.get_job_id(), context.get_node_id()).lend.remote(variables))


@lru_cache(maxsize=1)  # an actor lives as long as its handle
def _lender(job: str, node: str) -> ActorHandle:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    lender: Any = ray.remote(num_cpus=0)(_Lender)
    return lender.options(name=_NAME, scheduling_strategy=here).remote()


def borrow_keys() -> None:
    """Put what is lent into this process' environment, before that of the machine."""
    with suppress(ValueError):  # nothing is lent
        os.environ.update(ray.get(ray.get_actor(_NAME).borrow.remote()))


def keep_from_runtime_environments() -> None:
    """Have Tune copy no secret into the runtime environments of its trials."""
    for name in [name for name in class_cache.ENV_VARS_TO_PROPAGATE if is_secret(name)]:
        class_cache.ENV_VARS_TO_PROPAGATE.remove(name)
