from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raygap.imbalance import gaussians
from raygap.imbalance.mixture import DegenerateMixture, GapMixture, fit_gap_mixture


def planted(clips: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """70 % N(0.1, 0.05), 30 % N(0.6, 0.1)."""
    random = np.random.default_rng(seed)
    balanced = random.random(clips) < 0.7
    values = np.where(balanced, random.normal(0.1, 0.05, clips), random.normal(0.6, 0.1, clips))
    return (values + shift).astype(np.float32)


mixtures = st.builds(
    GapMixture,
    means=st.tuples(st.floats(0, 0.3), st.floats(0.3, 1)),
    variances=st.tuples(st.floats(1e-3, 0.1), st.floats(1e-3, 0.1)),
    weights=st.floats(0.05, 0.95).map(lambda weight: (weight, 1 - weight)),
)


@given(mixtures, st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_posterior_and_likelihood_follow_bayes(mixture: GapMixture, values: list[float]) -> None:
    balanced, imbalanced = (
        weight * stats.norm.pdf(values, mean, variance**0.5)
        for weight, mean, variance in zip(mixture.weights, mixture.means, mixture.variances, strict=True)
    )
    total = balanced + imbalanced
    expected = np.divide(imbalanced, total, out=np.full(len(values), np.nan), where=total > 1e-290)
    posterior = mixture.imbalanced(np.array(values))
    known = ~np.isnan(expected)
    np.testing.assert_allclose(posterior[known], expected[known], rtol=1e-7, atol=1e-12)
    assert np.all((posterior >= 0) & (posterior <= 1))
    if known.all():
        likelihood = np.log(total).sum()
        assert mixture.log_likelihood(np.array(values)) == pytest.approx(likelihood, rel=1e-7, abs=1e-7)
        bic = 5 * np.log(len(values)) - 2 * likelihood
        assert mixture.bic(np.array(values)) == pytest.approx(bic, rel=1e-7, abs=1e-7)


def test_posterior_far_from_both_components_does_not_underflow() -> None:
    mixture = GapMixture((0.0, 0.01), (1e-6, 1e-6), (0.5, 0.5))
    assert mixture.imbalanced(np.array([-1.0, 1.0, np.nan])) == pytest.approx([0, 1, np.nan], nan_ok=True)


def test_planted_parameters_are_found() -> None:
    values = planted(20_000)
    mixture = fit_gap_mixture(values, n_init=4, seed=0)
    assert mixture.means == pytest.approx((0.1, 0.6), abs=0.01)
    assert np.sqrt(mixture.variances) == pytest.approx((0.05, 0.1), abs=0.005)
    assert mixture.weights == pytest.approx((0.7, 0.3), abs=0.02)
    assert mixture.ashman_d == pytest.approx(np.sqrt(2) * 0.5 / np.sqrt(0.05**2 + 0.1**2), rel=0.03)
    assert mixture.imbalanced(np.array([0.1, 0.6])) == pytest.approx((0, 1), abs=1e-3)


def test_balanced_is_the_component_nearest_zero_on_either_side() -> None:
    mixture = fit_gap_mixture(-planted(2_000), n_init=4, seed=0)
    assert mixture.means == pytest.approx((-0.1, -0.6), abs=0.03)
    signed = fit_gap_mixture(planted(2_000, shift=-0.65), n_init=4, seed=0)
    assert signed.means == pytest.approx((-0.05, -0.55), abs=0.03)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_permuting_the_clips_permutes_the_posteriors(seed: int) -> None:
    values = planted(3_000)
    order = np.random.default_rng(seed).permutation(len(values))
    straight = fit_gap_mixture(values, n_init=2, seed=0)
    permuted = fit_gap_mixture(values[order], n_init=2, seed=0)
    assert permuted == straight
    np.testing.assert_allclose(
        permuted.imbalanced(values[order]), straight.imbalanced(values)[order], rtol=0, atol=1e-15
    )


def test_the_same_call_gives_the_same_bits() -> None:
    values = planted(5_000)
    first = fit_gap_mixture(values, n_init=3, seed=7)
    assert fit_gap_mixture(values, n_init=3, seed=7) == first
    warm = fit_gap_mixture(values, n_init=3, seed=7, start=first)
    assert fit_gap_mixture(values, n_init=3, seed=7, start=first) == warm


@pytest.mark.parametrize("case", ["planted", "folded"])
def test_a_warm_start_is_never_less_likely(case: str) -> None:
    random = np.random.default_rng(3)
    folded = np.abs(random.normal(0, 0.25, 4_000)).clip(0, 1)
    values = planted(4_000) if case == "planted" else folded
    moved = values + random.normal(0, 0.01, 4_000).astype(values.dtype)
    start = fit_gap_mixture(values, n_init=4, seed=0)
    cold = fit_gap_mixture(moved, n_init=1, seed=0)
    warm = fit_gap_mixture(moved, n_init=1, seed=0, start=start)
    slack = 1e-4 * len(moved)  # EM stops there
    assert warm.log_likelihood(moved) >= cold.log_likelihood(moved) - slack
    assert warm.log_likelihood(moved) >= start.log_likelihood(moved) - 1e-6


def test_a_bad_start_does_not_hold_the_fit_back() -> None:
    values = planted(4_000)
    astray = GapMixture((-0.9, 0.3), (1e-4, 0.1), (0.02, 0.98))
    cold = fit_gap_mixture(values, n_init=4, seed=0)
    warm = fit_gap_mixture(values, n_init=4, seed=0, start=astray)
    assert warm.means == pytest.approx(cold.means, abs=0.01)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.append(planted(500), np.nan), "1 clips have NaN or infinite"),
        (np.append(planted(500), np.inf), "1 clips have NaN or infinite"),
        (np.array([]), "only 0 distinct"),
        (np.full(1000, 0.3), "only 1 distinct"),
        (np.tile(np.linspace(0, 1, 9), 100), "only 9 distinct"),
        (np.append(np.random.default_rng(0).normal(0.1, 0.01, 1000), [0.9] * 3), "only 0.30%"),
        (np.append(np.random.default_rng(0).random(500), np.zeros(500)), "collapsed"),
    ],
    ids=["nan", "infinite", "empty", "constant", "few distinct", "tiny component", "collapse"],
)
def test_degenerate_values_are_refused_in_one_line(values: np.ndarray, reason: str) -> None:
    with pytest.raises(DegenerateMixture, match=reason) as caught:
        fit_gap_mixture(values, n_init=4, seed=0)
    assert "\n" not in str(caught.value)


def test_a_fit_that_does_not_converge_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gaussians.FINISH", "mixture.TOLERANCE"):
        monkeypatch.setattr(f"raygap.imbalance.{name}", 0.0)
    with pytest.raises(DegenerateMixture, match="did not converge"):
        fit_gap_mixture(np.abs(np.random.default_rng(0).normal(0, 0.25, 300)), n_init=1, seed=0)


def test_the_other_candidate_steps_in_where_the_likelier_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    values = planted(4_000)
    start = fit_gap_mixture(values, n_init=4, seed=0)
    usual, whole = gaussians._em, []

    def first_fails(fitted_to: np.ndarray, *arguments: Any, **options: Any) -> Any:
        run = usual(fitted_to, *arguments, **options)
        if len(fitted_to) == len(values):
            whole.append(run)
            run.converged_ = len(whole) > 1
        return run

    monkeypatch.setattr(gaussians, "_em", first_fails)
    fitted = fit_gap_mixture(values, n_init=4, seed=0, start=start)
    assert len(whole) == 2
    assert fitted.means == pytest.approx(start.means, abs=0.01)


@given(mixtures)
def test_state_restores_the_same_mixture(mixture: GapMixture) -> None:
    assert GapMixture.from_state_dict(mixture.state_dict()) == mixture
