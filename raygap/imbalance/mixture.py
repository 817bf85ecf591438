"""The mixture of balanced and imbalanced clips over the gaps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from raygap.imbalance.gaussians import DegenerateMixture, Gaussians, fit_gaussians

REG_COVAR = 1e-6
"""Added to each variance; scikit-learn's default. In gaps: a standard deviation of 0.001."""

TOLERANCE = 1e-6
"""scikit-learn's default, 1e-3, stops folded gaps half way, where the weights still depend on the start."""


@dataclass(frozen=True)
class GapMixture:
    """Two Gaussians over the gaps, *balanced* first: the one whose mean lies nearest 0.

    `means`, `variances` (gap and gap squared; variances include REG_COVAR) and `weights` (sum 1).
    """

    means: tuple[float, float]
    variances: tuple[float, float]
    weights: tuple[float, float]

    def imbalanced(self, values: np.ndarray) -> np.ndarray:
        """The posterior r = P(imbalanced given gap) in [0, 1], float64, of values (N,); a NaN stays NaN.

        Bayes' theorem in log space. It need not rise with the gap: where the variances differ, the wider component is
        the likelier one on both sides of the narrower.
        """
        return self._gaussians().posteriors(_column(values))[:, 1]

    def log_likelihood(self, values: np.ndarray) -> float:
        """Sum over values (N,) of the log density, in nats."""
        return self._gaussians().log_likelihood(_column(values))

    def bic(self, values: np.ndarray) -> float:
        """Bayesian information criterion (Schwarz 1978) of the five parameters on values (N,); lower is better."""
        return 5 * float(np.log(len(values))) - 2 * self.log_likelihood(values)

    @property
    def ashman_d(self) -> float:
        """Distance of the means in widths, sqrt(2) |m1 - m2| / sqrt(v1 + v2); above 2 the groups are clearly apart.

        Ashman, Bird and Zepf 1994, "Detecting bimodality in astronomical datasets".
        """
        return float(np.sqrt(2) * abs(self.means[0] - self.means[1]) / np.sqrt(sum(self.variances)))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Three float64 arrays (2,): means, variances, weights."""
        return {name: np.array(getattr(self, name)) for name in ("means", "variances", "weights")}

    @classmethod
    def from_state_dict(cls, state: dict[str, np.ndarray]) -> "GapMixture":
        """The same mixture, to the last bit."""
        read: dict[str, Any] = {name: tuple(float(number) for number in numbers) for name, numbers in state.items()}
        return cls(**read)

    def _gaussians(self) -> Gaussians:
        return Gaussians(np.array(self.weights), np.array(self.means)[:, None], np.array(self.variances)[:, None, None])


def fit_gap_mixture(values: np.ndarray, *, n_init: int, seed: int, start: GapMixture | None = None) -> GapMixture:
    """Fit the mixture to values (N,) of mixture_values, with `n_init` random starts and from `start`, the last fit.

    Depends on the values, not on their order. Raises DegenerateMixture as fit_gaussians does, and for a component that
    has collapsed: its own variance lies below REG_COVAR, so that the regulariser and not the data sets its width.
    """
    fit = fit_gaussians(
        _column(values),
        2,
        reg_covar=REG_COVAR,
        tolerance=TOLERANCE,
        n_init=n_init,
        seed=seed,
        start=start._gaussians() if start else None,
    )
    narrowest = float(fit.covariances.min())
    if narrowest < 2 * REG_COVAR:
        raise DegenerateMixture(f"a component has collapsed to a standard deviation of {narrowest**0.5:.4f}")
    order = np.argsort(np.abs(fit.means[:, 0]), kind="stable")
    return GapMixture(
        means=tuple(fit.means[order, 0].tolist()),
        variances=tuple(fit.covariances[order, 0, 0].tolist()),
        weights=tuple(fit.weights[order].tolist()),
    )


def bic_one_gaussian(values: np.ndarray) -> float:
    """BIC of a single Gaussian on values (N,), to compare GapMixture.bic with."""
    log_likelihood = -len(values) / 2 * (np.log(2 * np.pi * values.var()) + 1)
    return 2 * float(np.log(len(values))) - 2 * float(log_likelihood)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)[:, None]
