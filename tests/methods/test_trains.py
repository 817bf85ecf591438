"""Methods learn: on a store whose sound tells the class, a short training answers far better than chance."""

from typing import Any

import pytest
from stores import SMALL

from raygap.config import flatten, load_yaml
from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.search.space import FOLDER
from raygap.training.trainer import Trainer

OWN: dict[str, dict[str, Any]] = {
    "g2d": {"epochs": 20, "warmup.epochs": 6},
    "remix": {"warmup.epochs": 6},
    "aug": {"epochs": 24},
}
CHANCE = 1 / 3


@pytest.mark.parametrize("method", ["cml", "lfm", "tcmax", "dgl", "arl", "inforeg", "g2d", "cggm", "remix", "aug"])
def test_a_short_training_answers_better_than_chance(method: str, small_store: Store) -> None:
    fixed = flatten(load_yaml(FOLDER / f"{method}.yaml")["fixed"])
    fields = SMALL | {"epochs": 12, "warmup.epochs": 0, "optimizer.lr": 0.02, "method": method} | fixed
    trainer = Trainer(from_mapping(fields | {"purify.epochs": 0} | OWN.get(method, {})), small_store)
    rows = [trainer.train_epoch() for _ in range(trainer.config.epochs)]
    after = [row["val_accuracy"] for row in rows[len(rows) // 2 :]]
    assert max(after) >= 1.7 * CHANCE
