import numpy as np
import pytest
from scipy import stats

from raygap.imbalance.gap import GapScore
from raygap.imbalance.mixture import DegenerateMixture
from raygap.imbalance.null_check import NullCheck, check_two_groups

RANDOM = np.random.default_rng(0)
CLIPS = 600
BALANCED = RANDOM.random(CLIPS) < 0.7
TWO_SIGNED = np.where(BALANCED, RANDOM.normal(0, 0.08, CLIPS), RANDOM.normal(0.6, 0.12, CLIPS)).clip(-1, 1)
ONE_SIGNED = stats.truncnorm(-4.4, 3.6, loc=0.1, scale=0.25).rvs(CLIPS, random_state=1)
TWO_LOW_SCORES = 1 - np.where(BALANCED, RANDOM.beta(15, 1, CLIPS), RANDOM.beta(1, 8, CLIPS))


def check(values: np.ndarray, score: GapScore, **changes) -> NullCheck:
    return check_two_groups(values, score, **{"n_init": 2, "seed": 0, **changes})


@pytest.mark.parametrize(
    ("values", "score"),
    [(np.abs(TWO_SIGNED), "absolute"), (TWO_SIGNED, "signed"), (TWO_LOW_SCORES, "min_score")],
    ids=["absolute", "signed", "min_score"],
)
def test_two_planted_groups_are_seen(values: np.ndarray, score: GapScore) -> None:
    result = check(values, score)
    assert result.two_groups
    assert result.bic_two < result.bic_null
    assert result.rank == pytest.approx(1 / 21)
    assert result.verdict.startswith("The gaps look like two groups")


@pytest.mark.parametrize("location", [0.0, 0.1, 0.3])
def test_one_folded_group_is_not_called_two(location: float) -> None:
    values = np.abs(np.random.default_rng(2).normal(location, 0.2, CLIPS)).clip(0, 1)
    result = check(values, "absolute")
    assert result.bic_two < result.bic_one or location > 0.2  # what BIC alone would have called a proof
    assert not result.two_groups
    assert result.verdict.startswith("No evidence of two groups")


@pytest.mark.parametrize(
    ("values", "score"),
    [(ONE_SIGNED, "signed"), (np.random.default_rng(3).random(CLIPS), "min_score")],
    ids=["normal", "flat"],
)
def test_one_bounded_group_is_not_called_two(values: np.ndarray, score: GapScore) -> None:
    assert not check(values, score).two_groups


def test_the_null_is_fitted_by_maximum_likelihood() -> None:
    result = check(ONE_SIGNED, "signed", simulations=0)
    assert (result.null_location, result.null_scale) == pytest.approx((0.1, 0.25), abs=0.03)
    folded = check(np.abs(ONE_SIGNED), "absolute", simulations=0)
    assert folded.null_scale == pytest.approx(0.25, abs=0.06)  # folding nearly hides a location this near 0
    cut = stats.truncnorm(-4.4, 3.6, loc=0.1, scale=0.25)
    truth = 2 * np.log(CLIPS) - 2 * np.log(cut.pdf(ONE_SIGNED) + cut.pdf(-ONE_SIGNED)).sum()
    assert folded.bic_null <= truth + 1e-3
    assert folded.bic_null == pytest.approx(truth, abs=10)


def test_the_numbers_belong_together() -> None:
    result = check(np.abs(TWO_SIGNED), "absolute", simulations=4)
    values = np.abs(TWO_SIGNED)
    one = 2 * np.log(CLIPS) - 2 * stats.norm.logpdf(values, values.mean(), values.std()).sum()
    assert result.bic_one == pytest.approx(one)
    assert result.difference == result.bic_one - result.bic_two
    assert len(result.null_differences) == 4
    # Four samples cannot show that the null is rare, however far the groups lie apart.
    assert result.rank == pytest.approx(1 / 5)
    assert not result.two_groups


def test_the_answer_repeats_and_does_not_depend_on_the_order_of_the_clips() -> None:
    values = np.abs(TWO_SIGNED)
    first = check(values, "absolute", simulations=3, cap=400)
    assert first.clips == 400
    assert check(values[::-1], "absolute", simulations=3, cap=400) == first


def test_values_that_no_mixture_fits_are_refused() -> None:
    with pytest.raises(DegenerateMixture, match="NaN"):
        check(np.append(ONE_SIGNED, np.nan), "signed")


def test_values_outside_the_range_of_the_score_are_refused() -> None:
    with pytest.raises(ValueError, match=r"absolute gaps must lie in \[0, 1\]"):
        check(TWO_SIGNED, "absolute")
