import numpy as np
import pytest

from raygap.imbalance.decision_layer import adds_up, logit_shares, norms

random = np.random.default_rng(0)
LABELS = random.integers(0, 3, 200)
AUDIO, VISUAL = random.normal(0, 2, (200, 3)), random.normal(0, 1, (200, 3))


def test_both_shares_make_the_whole_in_all_and_in_every_class() -> None:
    shares = logit_shares(AUDIO, VISUAL, LABELS)
    assert shares.audio + shares.visual == pytest.approx(1)
    np.testing.assert_allclose(shares.by_class["audio"] + shares.by_class["visual"], 1)


def test_independent_parts_share_by_their_variance() -> None:
    many = np.random.default_rng(1)
    audio, visual = many.normal(0, 2, (50_000, 3)), many.normal(0, 1, (50_000, 3))
    assert logit_shares(audio, visual, np.zeros(50_000, int)).audio == pytest.approx(4 / 5, abs=0.01)


def test_known_cases() -> None:
    assert logit_shares(AUDIO, 0 * AUDIO, LABELS).audio == pytest.approx(1)
    assert logit_shares(AUDIO, AUDIO, LABELS).audio == pytest.approx(0.5)
    against = logit_shares(AUDIO, -0.5 * AUDIO, LABELS)  # visual takes half of audio's answer back
    assert (against.audio, against.visual) == pytest.approx((2, -1))


def test_biases_and_what_all_classes_share_change_nothing() -> None:
    bias, common = np.array([3.0, -1.0, 7.0]), random.normal(size=(200, 1))
    one, other = logit_shares(AUDIO, VISUAL, LABELS), logit_shares(AUDIO + bias, VISUAL + common, LABELS)
    assert one.audio == pytest.approx(other.audio)
    np.testing.assert_allclose(one.by_class["visual"], other.by_class["visual"])
    np.testing.assert_allclose(one.true_class["visual"], other.true_class["visual"])


def test_the_lift_of_the_true_class_is_the_mean_above_the_other_classes() -> None:
    labels = np.array([0, 0, 1])
    audio = np.array([[3.0, 0, 0], [6.0, 0, 0], [0, 0, 0]])
    lift = logit_shares(audio, np.zeros((3, 3)), labels).true_class["audio"]
    np.testing.assert_allclose(lift, [3.0, 0.0, np.nan])


def test_sums_are_told_from_other_fusions() -> None:
    bias, common = np.array([3.0, -1.0, 7.0]), random.normal(size=(200, 1))
    assert adds_up(AUDIO + VISUAL + bias + common, AUDIO, VISUAL)
    assert not adds_up(AUDIO + 1.2 * VISUAL, AUDIO, VISUAL)
    assert not adds_up(AUDIO * VISUAL, AUDIO, VISUAL)


def test_norms_are_lengths_of_rows() -> None:
    np.testing.assert_allclose(norms(np.array([[3.0, 4.0], [0.0, 0.0]])), [5, 0])
