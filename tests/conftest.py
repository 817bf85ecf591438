"""Fixtures that several folders of tests share."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import raygap  # noqa: F401  # isort: skip  (first: it settles where bytecode is kept)
import pytest
from media import write_data_set
from stores import SMALL, write_store
from wandb_server import WandbServer, give_account, wandb_server

from raygap.data.store import Store, store_folder
from raygap.storage import Storage

if TYPE_CHECKING:
    from raygap.search.job import Outcome

# Ray reads it when a test module imports it: under `uv run` workers use this environment.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
# Its workers, which a test waits for, do not stand back behind the tests of the other process.
os.environ |= {"RAY_worker_niceness": "0"}
# The tests of W&B say themselves where they log.
os.environ["WANDB_MODE"] = "disabled"
# Of the object store that `bucket` starts; processes of Ray inherit them from here.
os.environ |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite, and all that starts machines of its own, is tested by two processes: one has what needs the
    shared Ray, which waits for its workers most of the time. What is asked for by name is tested in this process.
    """
    whole = config.args == config.getini("testpaths") and config.option.markexpr in ("not cluster", "cluster")
    return 2 if whole and not config.option.keyword else 0


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of xdist's processes one tests all that needs Ray, so that there is one; other files are each tested by one."""
    for item in items:
        needs_ray = "ray_cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray else item.location[0]))


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.csv and 12 clips of two classes; not to be changed."""
    return write_data_set(tmp_path_factory.mktemp("data_set"))


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of 72 learnable clips of three classes."""
    return write_store(tmp_path_factory.mktemp("small") / "store")


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """URI of a new bucket, with %s for a path in it, in an object store on this machine."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    FileSystem.from_uri(f"s3://tests?{options}")[0].create_dir("tests")
    yield f"s3://tests/%s?{options}"
    server.stop()


@pytest.fixture
def storage(object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty place in it, to a machine with nothing in its folder for temporary files."""
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "machine"))
    return Storage(object_store % tmp_path.name)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for all tests that need it, with two CPUs whatever the machine has."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    # Actors unpickle classes that tests define.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def logged_server() -> Iterator[WandbServer]:
    """The server that has the finished sweep; not to be spoiled for good."""
    with wandb_server() as server:
        yield server


@pytest.fixture(scope="session")
def finished_sweep(
    tmp_path_factory: pytest.TempPathFactory, small_store: Store, ray_cluster: None, logged_server: WandbServer
) -> tuple[Path, "Outcome"]:
    """A sweep of five trials with two test seeds, by gmm_adaptive, logged; its folder is not to be changed."""
    from raygap.search.job import run_sweep
    from raygap.search.plan import Plan, make_folder, write_plan

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
def stored_sweep(
    object_store: str, small_store: Store, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, "Outcome", Storage]:
    """A sweep that is kept in an object store, of two plain trials and one guided by the history that is pooled from
    them, chosen by the loss, with one test seed and the weights of two trials. Neither the folder nor what is stored
    is to be changed.
    """
    from raygap.search.job import run_sweep
    from raygap.search.kept import check_storage
    from raygap.search.plan import make_folder, make_plan, write_plan

    folder = tmp_path_factory.mktemp("runs") / "stored"
    storage = Storage(object_store % "stored").at("runs", "stored")
    check_storage(storage, new=True)
    space = tmp_path_factory.mktemp("space") / "space.yaml"
    space.write_text("space: {loss.focus: {uniform: [0, 9]}}")
    fixed = SMALL | {"epochs": 4, "warmup.epochs": 1, "purify.epochs": 0, "gap.source": "history"}
    fixed |= {"optimizer.lr": 0.02}  # with it the two best answer better together
    made = make_plan("demo", "gmm_scores", space, fixed, root=None, cache="", trials=4, storage=storage.uri)
    known = tuple(one for one in made.known if one.plain)
    plan = replace(
        made, known=known, trials=3, test_seeds=1, references=False, metric="loss", stopper="none", keep_top=2
    )
    make_folder(folder, new=True)
    write_plan(plan, folder)
    with pytest.MonkeyPatch.context() as patch:
        machine = tmp_path_factory.mktemp("machine")
        patch.setattr("tempfile.tempdir", str(machine))
        return folder, run_sweep(plan, folder, small_store.path, 1, None, lambda seed, metrics: None), storage


@pytest.fixture
def stored_run(stored_sweep: tuple[Path, "Outcome", Storage], storage: Storage, tmp_path: Path) -> Storage:
    """A copy of what is stored of it, to be changed; without what its trials share with others."""
    kept, there = stored_sweep[2], storage.at("runs", "run")
    kept.pull_all(tmp_path / "pulled")
    there.push(tmp_path / "pulled", kept.files())
    return there


@pytest.fixture(scope="session")
def finished_run(finished_sweep: tuple[Path, "Outcome"]) -> Path:
    """The finished sweep's folder; to be copied before it is changed."""
    return finished_sweep[0]
