"""Surrogates of recorded curves, and what samplers find on them."""

import sys
from pathlib import Path

import numpy as np
import pytest

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from curves import drawn, space_of
from samplers import SAMPLERS, SURROGATES, Surrogate, beyond, by_set, features, make_surrogate, overall, search

SPACE = space_of("digits", "unimodal_losses")


def hill(points: np.ndarray) -> np.ndarray:
    """Highest in the middle of the learning rate's range; the others do nothing."""
    return 90 - 40 * (points[:, 0] - 0.5) ** 2


def test_ranges_reach_from_0_to_1_on_their_own_scale() -> None:
    low = {"optimizer.lr": 0.0005, "optimizer.weight_decay": 1e-5, "loss.unimodal_weight": 0.2}
    high = {"optimizer.lr": 0.2, "optimizer.weight_decay": 1e-2, "loss.unimodal_weight": 5.0}
    assert features(SPACE, low).tolist() == [0, 0, 0]
    assert features(SPACE, high).tolist() == pytest.approx([1, 1, 1])
    assert features(SPACE, low | {"optimizer.lr": 0.01})[0] == pytest.approx(0.5)
    guided = space_of("digits", "gmm_scores")
    points = [features(guided, drawn(guided, "digits", "gmm_scores", number)) for number in range(30)]
    assert np.min(points) >= 0
    assert np.max(points) <= 1


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_surrogate_says_how_much_it_explains_of_what_it_has_not_seen(kind: str) -> None:
    configs = [drawn(SPACE, "digits", "unimodal_losses", number) for number in range(60)]
    points = np.stack([features(SPACE, config) for config in configs])
    made = make_surrogate(kind, "digits", "unimodal_losses", configs, hill(points))
    assert made.r2 > 0.8
    assert made.predict(np.array([[0.5, 0.5, 0.5]]))[0] > made.predict(np.array([[0.02, 0.5, 0.5]]))[0] + 4
    chance = np.random.default_rng(0).normal(0, 3, 60)
    none = make_surrogate(kind, "digits", "unimodal_losses", configs, 80 + chance)
    assert none.r2 < 0.2
    assert none.noise == pytest.approx(chance.std(), rel=0.3)


def test_a_search_chooses_what_is_best_as_told_and_more_trials_find_more() -> None:
    exact = Surrogate("exact", SPACE, hill, 1.0, 0.0, 90.0)
    few, many = (
        np.mean([search(SAMPLERS["random"], exact, trials, seed, defaults=False) for seed in range(8)])
        for trials in (4, 30)
    )
    assert few < many <= 90
    one = [search(SAMPLERS["tpe"], exact, 8, 3, defaults=True) for _ in range(2)]
    assert one[0] == one[1]
    # The defaults alone: a learning rate of 0.02.
    assert search(SAMPLERS["qmc"], exact, 1, 0, defaults=True) == pytest.approx(
        hill(np.array([[0.6157, 0, 0]]))[0], 1e-3
    )
    noisy = Surrogate("noisy", SPACE, hill, 1.0, 50.0, 90.0)
    assert search(SAMPLERS["random"], noisy, 30, 0, False) < search(SAMPLERS["random"], exact, 30, 0, False)


def test_differences_count_beyond_their_interval() -> None:
    assert beyond(np.array([1.0, 1.2, 0.9, 1.1])) == "worse"
    assert beyond(np.array([-1.0, -1.2, -0.9])) == "better"
    assert not beyond(np.array([-1.0, 1.2, -0.9, 1.1]))
    regrets = {
        ("a", 12, True, "tpe"): np.array([1.0, 2.0, 1.5]),
        ("a", 12, True, "random"): np.array([2.0, 3.0, 2.5]),
    }
    lines = overall(regrets, ["tpe", "random"], [12])
    assert lines[2].startswith("| 12 | defaults | tpe | 1.50 [")
    assert lines[3].endswith("| +1.00 [+1.00, +1.00] | 0 of 1 | 1 of 1 |")
    assert by_set(regrets, ["tpe", "random"])[2] == "| a | 12 | 1.50 | 2.50 worse |"
