"""W&B as the tests of this folder have it: the server of the finished sweep, and a key for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer, give_account


@pytest.fixture
def account(logged_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """The same server, to a user with a key for it."""
    give_account(monkeypatch, logged_server, tmp_path)
    wandb.teardown()  # what other tests may have set up
    yield logged_server
    wandb.teardown()
