import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygap.config import Optimizer, Purify
from raygap.schema import from_mapping
from raygap.training.stages import learning_rate, purified, refit_due, stage_of


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 4))
def test_stages_fill_the_epochs_and_refits_fall_where_due(warmup: int, adaptive: int, purify: int, every: int) -> None:
    epochs = max(warmup + adaptive + purify, 1)
    config = from_mapping(
        {"epochs": epochs, "warmup.epochs": warmup, "purify.epochs": purify, "mixture.refit_every": every}
    )
    stages = [stage_of(config, epoch) for epoch in range(epochs)]
    assert stages.count("warmup") == warmup
    assert stages.count("purification") == purify
    assert stages == sorted(stages, key=["warmup", "adaptive", "purification"].index)
    due = [epoch for epoch in range(epochs) if refit_due(config, epoch, fitted=True)]
    first_of_purification = [epochs - purify] if purify else []
    in_between = [e for e in range(warmup, epochs - purify) if every and (e - warmup) % every == 0]
    assert due == in_between + first_of_purification
    assert all(refit_due(config, e, fitted=False) for e in range(epochs) if stages[e] == "adaptive")


def test_learning_rates_depend_on_the_epoch_alone() -> None:
    rate = {name: Optimizer(schedule=name, lr=0.1, step_size=3, gamma=0.5) for name in ("constant", "step", "cosine")}
    assert [learning_rate(rate["constant"], 9, e) for e in (0, 8)] == [0.1, 0.1]
    assert [learning_rate(rate["step"], 9, e) for e in (0, 2, 3, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert learning_rate(rate["cosine"], 10, 0) == 0.1
    assert learning_rate(rate["cosine"], 10, 5) == pytest.approx(0.05)
    assert 0 < learning_rate(rate["cosine"], 10, 9) < 0.01


@given(
    st.integers(2, 5),
    st.integers(5, 60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["filtered", "random"]),
    st.integers(0, 9),
)
def test_purification_keeps_the_right_clips(
    classes: int, clips: int, threshold: float, floor: float, subset: str, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    labels, balanced = np.arange(clips) % classes, draw.random(clips)
    settings = Purify(threshold=threshold, class_floor=floor)
    filtered = purified(settings, balanced, labels, draw)
    kept = purified(settings.model_copy(update={"subset": subset}), balanced, labels, draw)
    assert (np.diff(kept) > 0).all()
    for label in range(classes):
        mine = kept[labels[kept] == label]
        of_class = np.flatnonzero(labels == label)
        assert len(mine) >= max(1, floor * len(of_class))  # every class stays alive
        assert len(mine) == (labels[filtered] == label).sum()  # the random control is as large
        if subset == "filtered":
            assert set(of_class[balanced[of_class] >= threshold]) <= set(mine)
            left_out = np.setdiff1d(of_class, mine)
            assert not len(left_out) or balanced[left_out].max() <= balanced[mine].min()


def test_without_a_fit_purification_keeps_every_clip() -> None:
    kept = purified(Purify(), np.full(9, np.nan), np.arange(9) % 3, np.random.default_rng(0))
    assert kept.tolist() == list(range(9))
