import numpy as np

from raygap.imbalance.discrepancy import cumulative_score


def test_the_recursion_of_the_definition() -> None:
    scores = np.random.default_rng(0).random(20)
    expected, last = [], 0.0
    for t, score in enumerate(scores, start=1):
        last = ((t - 1) * last + score) / t
        expected.append(last)
    np.testing.assert_allclose(cumulative_score(scores), expected)


def test_the_discrepancy_is_the_cumulative_gap() -> None:
    audio, visual = np.random.default_rng(1).random((2, 30))
    np.testing.assert_allclose(cumulative_score(audio) - cumulative_score(visual), cumulative_score(audio - visual))


def test_no_step_has_no_score() -> None:
    assert len(cumulative_score(np.array([]))) == 0
