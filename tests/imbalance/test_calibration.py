import numpy as np
import pytest

from raygap.imbalance.calibration import BINS, TEMPERATURES, calibration, fit_temperature, log_loss


def two_class(p: float, right: int, wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that give class 0 the probability p, and labels of which `right` are class 0."""
    logits = np.tile([np.log(p / (1 - p)), 0.0], (right + wrong, 1))
    return logits, np.array([0] * right + [1] * wrong)


def test_closed_form_of_one_bin() -> None:
    found = calibration(*two_class(0.8, right=6, wrong=4))
    assert found.accuracy == pytest.approx(0.6)
    assert found.confidence == pytest.approx(0.8)
    assert found.ece == pytest.approx(0.2)
    assert found.log_loss == pytest.approx(-0.6 * np.log(0.8) - 0.4 * np.log(0.2))
    assert found.bin_clips.sum() == 10


def test_bins_are_weighted_by_their_clips_and_errors_do_not_cancel() -> None:
    parts = [two_class(0.6, right=9, wrong=1), two_class(0.95, right=15, wrong=15)]  # too shy by .3, too bold by .45
    logits, labels = (np.concatenate(side) for side in zip(*parts, strict=True))
    assert calibration(logits, labels).ece == pytest.approx((10 * 0.3 + 30 * 0.45) / 40)


def test_certainty_lies_in_the_last_bin() -> None:
    found = calibration(np.array([[1000.0, 0.0]]), np.array([0]))
    assert found.bin_clips[BINS - 1] == 1
    assert found.ece == 0.0


def test_the_temperature_of_two_values_has_a_closed_form() -> None:
    # All clips say 0.95, 80 % are right: the temperature makes it 0.8.
    logits, labels = two_class(0.95, right=80, wrong=20)
    assert fit_temperature(logits, labels) == pytest.approx(np.log(0.95 / 0.05) / np.log(0.8 / 0.2), rel=1e-3)
    assert calibration(logits / fit_temperature(logits, labels), labels).ece == pytest.approx(0, abs=1e-3)


def test_temperatures_stay_within_bounds() -> None:
    always_right, never_right = two_class(0.9, right=10, wrong=0), two_class(0.9, right=0, wrong=10)
    assert TEMPERATURES[0] <= fit_temperature(*always_right) < 0.1
    assert 10 < fit_temperature(*never_right) <= TEMPERATURES[1]


def test_log_loss_is_that_of_the_softmax() -> None:
    assert log_loss(np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([0, 1])) == pytest.approx(np.log(2))
