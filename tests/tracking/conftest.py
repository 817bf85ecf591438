"""What the tests of this folder share: W&B's server with the finished sweep and a key for it; a comparison."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer, give_account

from raygap.search.comparison import Comparison, write_comparison, write_tables
from raygap.tracking.comparison_table import SHOWN, MethodResult


@pytest.fixture
def account(logged_server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """The same server, to a user with a key for it."""
    give_account(monkeypatch, logged_server, tmp_path)
    wandb.teardown()  # what other tests may have set up
    yield logged_server
    wandb.teardown()


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """The folder of a comparison of four methods over five seeds, and of one of which every trial has failed."""
    folder = tmp_path / "compared"
    reached = {"joint": 0.80, "unimodal_losses": 0.86, "gradient_blending": 0.85, "gmm_scores": 0.90}
    results = []
    for place, (method, mean) in enumerate(reached.items()):
        accuracies = [mean + 0.01 * (seed % 3) + 0.002 * ((seed + place) % 4) for seed in range(5)]
        seeds = {1 + seed: dict.fromkeys(SHOWN, accuracy) for seed, accuracy in enumerate(accuracies)}
        cost = {"trials": 10, "epochs": 100 + 9 * place, "seconds": 60.0 * (1 + place)}
        results.append(MethodResult(method, mean + 0.02, seeds, cost))
    results.append(MethodResult("mla", notes=["no trial was complete"]))
    asked = Comparison("demo", None, (*reached, "mla"), 10, None, 5, False, {}, "")
    write_comparison(asked, folder)
    write_tables(asked, results, folder)
    return folder
