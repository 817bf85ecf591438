"""A finished sweep that the tests of this folder share, and the W&B server to which it was logged."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from stores import SMALL
from wandb_server import KEY, WandbServer, wandb_server

from raygap.data.store import Store, store_folder
from raygap.search.job import Outcome, run_sweep
from raygap.search.plan import Plan, make_folder, write_plan


@pytest.fixture(scope="session")
def logged_server() -> Iterator[WandbServer]:
    """The server that has the finished sweep; not to be spoiled for good."""
    with wandb_server() as server:
        yield server


def give_account(patch: pytest.MonkeyPatch, server: WandbServer, home: Path) -> None:
    """A user with a key for the server, and nothing else of W&B's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    settings = {"BASE_URL": server.url, "API_KEY": KEY, "SILENT": "true", "ERROR_REPORTING": "false"}
    for name, value in settings.items():
        patch.setenv(f"WANDB_{name}", value)
    patch.setenv("HOME", str(home))


@pytest.fixture
def account(logged_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """The same server, to a user with a key for it."""
    give_account(monkeypatch, logged_server, tmp_path)
    wandb.teardown()  # what other tests may have set up
    yield logged_server
    wandb.teardown()


@pytest.fixture(scope="session")
def finished_sweep(
    tmp_path_factory: pytest.TempPathFactory, small_store: Store, ray_cluster: None, logged_server: WandbServer
) -> tuple[Path, Outcome]:
    """A sweep of five trials with two test seeds, by gmm_adaptive, logged; its folder is not to be changed."""
    cache = tmp_path_factory.mktemp("cache")
    store_folder(cache, "small", small_store.header["key"]).symlink_to(small_store.path)
    plan = Plan(
        dataset="small",
        root=None,
        trials=5,
        fixed=SMALL | {"method": "gmm_adaptive"},
        space={"loss.focus": {"uniform": [0, 5]}, "warmup.epochs": {"randint": [1, 3]}},
        cache=str(cache),
        test_seeds=2,
    )
    folder = tmp_path_factory.mktemp("runs") / "finished"
    make_folder(folder, new=True)
    write_plan(plan, folder)
    with pytest.MonkeyPatch.context() as patch:
        give_account(patch, logged_server, tmp_path_factory.mktemp("home"))
        outcome = run_sweep(plan, folder, small_store.path, 1, None, lambda seed, metrics: None)
    assert not any("could not be" in line for line in outcome.about_gaps)
    return folder, outcome


@pytest.fixture(scope="session")
def finished_run(finished_sweep: tuple[Path, Outcome]) -> Path:
    """The finished sweep's folder; to be copied before it is changed."""
    return finished_sweep[0]
