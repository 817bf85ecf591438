"""Fixtures that several folders of tests share."""

from pathlib import Path

import pytest
from media import write_data_set
from stores import write_store

from raygap.data.store import Store


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.csv and 12 clips of two classes; not to be changed."""
    return write_data_set(tmp_path_factory.mktemp("data_set"))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 72 learnable clips of three classes."""
    return write_store(tmp_path_factory.mktemp("small") / "store")
