from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygap.imbalance.shapley import shapley_of_accuracy, two_players

accuracy = st.floats(0, 1)


@given(accuracy, accuracy, accuracy, accuracy)
def test_the_formula_is_the_mean_over_both_orders_of_joining(none: float, audio: float, visual: float, both: float):
    worth = {(): none, ("audio",): audio, ("visual",): visual, ("audio", "visual"): both}
    brought = {"audio": 0.0, "visual": 0.0}
    for order in permutations(brought):
        for i, player in enumerate(order):
            brought[player] += (worth[tuple(sorted(order[: i + 1]))] - worth[tuple(sorted(order[:i]))]) / 2
    values = two_players(none, audio, visual, both)
    assert values == pytest.approx((brought["audio"], brought["visual"]))
    assert sum(values) == pytest.approx(both - none)
    assert values[0] - values[1] == pytest.approx(audio - visual)


def test_a_modality_that_adds_nothing_is_worth_nothing() -> None:
    assert two_players(none=0.25, audio=0.75, visual=0.25, both=0.75) == (0.5, 0.0)


def test_values_over_clips_have_the_errors_of_their_means() -> None:
    random = np.random.default_rng(0)
    right = {
        name: random.random(400) < p for name, p in {"none": 0.25, "audio": 0.8, "visual": 0.5, "both": 0.9}.items()
    }
    found = shapley_of_accuracy(**right)
    means = {name: values.mean() for name, values in right.items()}
    assert found.coalitions == pytest.approx(means)
    assert (found.audio, found.visual) == pytest.approx(two_players(**means))
    resampled = [
        two_players(**{name: values[rows].mean() for name, values in right.items()})
        for rows in random.integers(0, 400, (500, 400))
    ]
    assert (found.audio_error, found.visual_error) == pytest.approx(np.std(resampled, axis=0), rel=0.2)
