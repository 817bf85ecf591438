"""Gaussian mixtures in any dimension: repeatable, independent of the order of the clips, and cheap to refit."""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import ThreadpoolController

THINNED_PER_COMPONENT = 500
"""Starts are compared on this many values a component; only the winner is fitted to all."""
DISTINCT_PER_COMPONENT = 5
"""Fewer distinct values a component than this say nothing about its mean and spread."""
SMALLEST_SHARE = 0.02
"""A component lighter than this share of an equal part (1 % of the clips with two components) is no group."""
SHORT, FINISH = 1e-3, 1e-4
"""Tolerances of the short runs, and of the last steps, on all values, if not looser."""


class DegenerateMixture(Exception):
    """No mixture worth using could be fitted; one line says why. Callers keep the last good fit."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """K Gaussians in D dimensions: weights (K,), means (K, D), covariances (K, D, D), in the units of the values."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @cached_property
    def _whitening(self) -> np.ndarray:
        """(K, D, D) matrices W with W^T W the inverse covariance."""
        return np.linalg.inv(np.linalg.cholesky(self.covariances))

    def log_joint(self, values: np.ndarray) -> np.ndarray:
        """log(weight_k * N(value | k)), (N, K), for values (N, D)."""
        dimensions = values.shape[1]
        columns = []
        for weight, mean, whitening in zip(self.weights, self.means, self._whitening, strict=True):
            distance = np.square((values - mean) @ whitening.T).sum(axis=1)
            log_scale = np.log(np.diagonal(whitening)).sum() - 0.5 * dimensions * np.log(2 * np.pi)
            columns.append(np.log(weight) + log_scale - 0.5 * distance)
        return np.stack(columns, axis=1)

    def posteriors(self, values: np.ndarray) -> np.ndarray:
        """P(component k given value), (N, K), by Bayes' theorem in log space: far values underflow nowhere."""
        joint = self.log_joint(values)
        import scipy  # commands read this file before they know that they need it

        return np.exp(joint - scipy.special.logsumexp(joint, axis=1, keepdims=True))

    def log_likelihood(self, values: np.ndarray) -> float:
        """Sum over the clips of the log density, in nats."""
        import scipy

        return float(scipy.special.logsumexp(self.log_joint(values), axis=1).sum())


def fit_gaussians(
    values: np.ndarray,
    components: int,
    *,
    reg_covar: float,
    tolerance: float,
    n_init: int,
    seed: int,
    start: Gaussians | None = None,
) -> Gaussians:
    """Fit `components` Gaussians to values (N, D) by expectation maximisation (scikit-learn's GaussianMixture).

    `n_init` random starts compete on an evenly spaced subset of the sorted values, in short runs (the short and long
    runs of Biernacki, Celeux and Govaert 2003); the winner and `start`, the last fit, if there is one, are refined
    there, until the mean log-likelihood rises by less than `tolerance`. The likelier is finished on all values; the
    other only if that does not converge.
    The same values, in any order, with the same seed and start give the same fit to the last bit.

    Raises DegenerateMixture for values that are not finite, fewer than 5 distinct values a component, a fit that does
    not converge, or a component lighter than 2 % of an equal share (1 % of the clips with two components).
    """
    if not np.isfinite(values).all():
        raise DegenerateMixture(f"{int((~np.isfinite(values)).any(axis=1).sum())} clips have NaN or infinite values")
    ordered = np.asarray(values, dtype=np.float64)
    ordered = ordered[np.lexsort(ordered.T[::-1])]
    distinct = 1 + int((np.diff(ordered, axis=0) != 0).any(axis=1).sum()) if len(ordered) else 0
    if distinct < DISTINCT_PER_COMPONENT * components:
        raise DegenerateMixture(f"only {distinct} distinct values for {components} components")
    # Middles of equal stretches: in one dimension, quantiles.
    size = min(THINNED_PER_COMPONENT * components, len(ordered))
    thinned = ordered[((np.arange(size) + 0.5) * len(ordered) / size).astype(np.int64)]

    candidates = [_parameters(_em(thinned, components, reg_covar, SHORT, n_init=n_init, random_state=seed))]
    if start:
        candidates.append(start)
    refined = [_em(thinned, components, reg_covar, tolerance, **_start(candidate)) for candidate in candidates]
    refined.sort(key=lambda run: run.lower_bound_, reverse=True)
    finished = (_em(ordered, components, reg_covar, max(tolerance, FINISH), **_start(_parameters(r))) for r in refined)
    best = next((_parameters(run) for run in finished if run.converged_), None)
    if best is None:
        raise DegenerateMixture(f"the fit of {components} components did not converge")
    lightest = float(best.weights.min())
    if lightest < SMALLEST_SHARE / components:
        raise DegenerateMixture(f"a component holds only {lightest:.2%} of the clips")
    return best


def _em(values: np.ndarray, components: int, reg_covar: float, tolerance: float, **starting: Any) -> "GaussianMixture":
    # Here, not above: scikit-learn takes seconds to import, and most processes fit nothing.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        components,
        # The same model in one dimension, at half the time: "full" would multiply thin matrices.
        covariance_type="diag" if values.shape[1] == 1 else "full",
        reg_covar=reg_covar,
        tol=tolerance,
        max_iter=200,
        **starting,
    )
    # The matrices are thin, so threads gain nothing; where several trials share a machine, waiting for each other they
    # cost a factor of ten, and they add up in another order each time: the last bits of k-means would change.
    with warnings.catch_warnings(), _thread_pools().limit(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # read from converged_, and few distinct values
        return mixture.fit(values)


@cache
def _thread_pools() -> "ThreadpoolController":
    """Made once: looking for the loaded libraries takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _start(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """A fit as the arguments from which scikit-learn starts the next one."""
    precisions = np.linalg.inv(gaussians.covariances)
    return {
        "weights_init": gaussians.weights / gaussians.weights.sum(),
        "means_init": gaussians.means,
        "precisions_init": precisions[:, :, 0] if precisions.shape[1] == 1 else precisions,
    }


def _parameters(fit: "GaussianMixture") -> Gaussians:
    components, dimensions = fit.means_.shape
    return Gaussians(fit.weights_, fit.means_, fit.covariances_.reshape(components, dimensions, dimensions))
