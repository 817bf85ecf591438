"""Fixtures that several folders of tests share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from media import write_data_set
from stores import write_store

from raygap.data.store import Store

# Ray reads it when a test module imports it: under `uv run` workers use this environment.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# The tests of W&B say themselves where they log.
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.csv and 12 clips of two classes; not to be changed."""
    return write_data_set(tmp_path_factory.mktemp("data_set"))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 72 learnable clips of three classes."""
    return write_store(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests that need it, with two CPUs whatever the machine has."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    # Actors unpickle classes that tests define.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
