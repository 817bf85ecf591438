import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from children import start
from stores import SMALL

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.training.optimizers import make_optimizer
from raygap.training.run import train


def train_with_each(told: Connection, store: Path, folder: Path) -> None:
    """Tells whether the compiler was loaded."""
    for name in ("sgd", "adamw"):
        fields = {"epochs": 2, "warmup.epochs": 2, "purify.epochs": 0, "optimizer.name": name}
        list(train(from_mapping(SMALL | fields), Store.open(store), folder / name))
    told.send("torch._dynamo" in sys.modules)


SETTINGS = {"optimizer.lr": 0.1, "optimizer.momentum": 0.5, "optimizer.weight_decay": 0.2}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_those_of_torch_also_after_a_resumption(name: str) -> None:
    settings = from_mapping(SETTINGS | {"optimizer.name": name}).optimizer
    own = {"sgd": partial(torch.optim.SGD, momentum=0.5), "adamw": torch.optim.AdamW}[name]
    plain = partial(own, lr=0.1, weight_decay=0.2)
    networks = [torch.nn.Linear(3, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    ours, theirs = make_optimizer(settings, networks[0]), plain(networks[1].parameters())
    for step in range(6):
        if step == 3:
            saved, ours = ours.state_dict(), make_optimizer(settings, networks[0])
            ours.load_state_dict(saved)
        for network, optimizer in zip(networks, (ours, theirs), strict=True):
            optimizer.zero_grad()
            network(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True))
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


def test_a_process_that_trains_does_not_load_the_compiler(small_store: Store, tmp_path: Path) -> None:
    child, told = start(train_with_each, small_store.path, tmp_path)
    assert told.recv() is False
    child.join()
