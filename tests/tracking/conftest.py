"""A finished run folder that the tests of this folder share."""

from pathlib import Path

import pytest
from stores import SMALL

from raygap.data.store import Store, store_folder
from raygap.search.job import run_sweep
from raygap.search.plan import Plan, make_folder, write_plan


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small_store: Store, ray_cluster: None) -> Path:
    """The folder of a sweep of five trials with two test seeds, by gmm_adaptive; to be copied before it is changed."""
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
    outcome = run_sweep(plan, folder, small_store.path, None, None, lambda seed, metrics: None)
    assert not any("could not be" in line for line in outcome.about_gaps)
    return folder
