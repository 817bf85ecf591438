import math
from typing import Any

import numpy as np
import pytest
import torch
from steps import CLASSES, LABELS, method_and_network

from raygap.errors import UserError
from raygap.methods.held_out import hold_out
from raygap.methods.relearning import purity
from raygap.models.network import Outputs, make_network

FIELDS = {"relearning__period": 0.15, "relearning__times": 2, "relearning__held_out": 0.4, "epochs": 20}
FIELDS |= {"relearning__strength": 1.5}


def blobs(labels: np.ndarray, spread: float) -> np.ndarray:
    """Features (N, 6) around a point a class."""
    return 5.0 * np.eye(6)[labels] + np.random.default_rng(0).normal(0, spread, (len(labels), 6))


def test_purity() -> None:
    labels = np.repeat([4, 7, 9], 20)
    assert purity(blobs(labels - 4, 0.1), labels) == 1.0
    mixed = labels.copy()
    mixed[:4] = 7  # of 20 clips in the first cluster 4 belong to another class
    assert purity(blobs(labels - 4, 0.1), mixed) == pytest.approx(56 / 60)
    assert purity(np.random.default_rng(1).normal(0, 1, (60, 6)), labels) < 0.7


def test_encoders_go_back_by_the_tanh_of_the_difference_of_the_purities() -> None:
    method, network = method_and_network("relearning", **FIELDS)
    held, compared = hold_out(LABELS, 0.4, 0)
    features = {"audio": blobs(LABELS, 0.1), "visual": blobs(LABELS, 0.1)}
    others = np.roll(np.arange(len(held)), 2)
    features["visual"][held] = features["visual"][held][others]  # the picture says nothing on held-out clips
    asked = []

    def look(clips: np.ndarray) -> Outputs:
        asked.append(clips)
        audio, visual = (torch.from_numpy(features[m][clips]).float() for m in ("audio", "visual"))
        return Outputs(audio, audio, visual, audio, visual)

    before = {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(3):
        method.begin_epoch(epoch, network, look)
    assert not asked
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())

    method.begin_epoch(3, network, look)
    assert asked[0].tolist() == [*compared, *held]
    initial = make_network(method.config.model, CLASSES, 0).state_dict()
    gap = purity(features["visual"][compared], LABELS[compared]) - purity(features["visual"][held], LABELS[held])
    assert gap > 0.1
    shares = {"audio": 0.0, "visual": math.tanh(1.5 * gap)}
    for name, value in network.state_dict().items():
        w = shares.get(name.split("_")[0], 0.0) if "encoder" in name else 0.0
        torch.testing.assert_close(value, w * initial[name] + (1 - w) * before[name])
    metrics: dict[str, Any] = {}
    method.end_epoch(3, metrics)
    assert metrics["relearning_set_back_visual"] == pytest.approx(shares["visual"], abs=1e-6)

    for epoch in range(4, 20):
        method.begin_epoch(epoch, network, look)
    assert len(asked) == 2


def test_held_out_clips_are_not_drawn_and_a_warmup_is_refused() -> None:
    method, _ = method_and_network("relearning", **FIELDS)
    assert sorted([*method.draw(np.arange(len(LABELS)), 0), *method.held]) == list(range(len(LABELS)))
    method, _ = method_and_network("relearning", warmup__epochs=2)
    with pytest.raises(UserError, match=r"relearning needs warmup\.epochs = 0"):
        method.check(method.config)
