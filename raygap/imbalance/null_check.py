"""One group of clips or two? The mixture against a single group that is folded and bounded as the gaps are.

Folding a bell curve at 0 and cutting it at 1 makes one group look like two to a Gaussian mixture. So the mixture has to
beat that one group, not only one Gaussian, and by more than it would beat it on samples of that one group.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # whose parts load when they are used

from raygap.imbalance.gap import GapScore, score_range
from raygap.imbalance.gaussians import DegenerateMixture
from raygap.imbalance.mixture import bic_one_gaussian, fit_gap_mixture

SIGNIFICANT = 0.05
CLEARLY_APART = 2.0
"""Ashman's D above which two components are clearly separate (Ashman, Bird and Zepf 1994)."""


@dataclass(frozen=True)
class NullCheck:
    """Numbers of the check. Every BIC is -2 log-likelihood + parameters * log(clips); lower is better."""

    score: GapScore
    clips: int
    """Values used: all, or a random subset of the cap's size."""
    bic_one: float
    """One Gaussian."""
    bic_two: float
    """The mixture."""
    bic_null: float
    """One group, bounded and, for absolute gaps, folded."""
    null_location: float
    """Location of that group's normal before folding and cutting."""
    null_scale: float
    """Scale of that normal."""
    means: tuple[float, float]
    weights: tuple[float, float]
    ashman_d: float
    null_differences: tuple[float, ...]
    """bic_one - bic_two of samples of the null; -inf where no mixture could be fitted."""
    rank: float
    """(1 + samples of the null that reach the observed difference) / (1 + samples): like a p-value."""
    two_groups: bool
    verdict: str
    """The answer in plain words, one sentence."""

    @property
    def difference(self) -> float:
        """bic_one - bic_two, observed: how much better two Gaussians are than one."""
        return self.bic_one - self.bic_two


def check_two_groups(
    values: np.ndarray,
    score: GapScore,
    *,
    n_init: int,
    seed: int,
    simulations: int = 20,
    cap: int = 2000,
) -> NullCheck:
    """Say whether values (N,), what mixture_values returns for `score`, hold two groups.

    The null is a normal cut to the range of the score, [-1, 1] or [0, 1]; for absolute gaps one cut to [-1, 1] and
    folded at 0; two parameters, by maximum likelihood. A parametric bootstrap (McLachlan 1987) draws `simulations`
    samples of it, of the same size, and fits the mixture to each. Two groups are claimed only if the mixture's BIC is
    below the null's, its lead over one Gaussian is larger than in 95 % of the samples (`rank` <= 0.05: with fewer than
    19 samples never), and Ashman's D exceeds 2. More than `cap` values are thinned to a random subset of that size.

    The null is one family of shapes: a single group of another shape, skewed or with heavy tails, can still pass.

    Raises DegenerateMixture if no mixture can be fitted to the values, ValueError if they leave the score's range.
    """
    random = np.random.default_rng(seed)
    values = np.sort(np.asarray(values, dtype=np.float64))  # the answer must not depend on the order of the clips
    if len(values) > cap:
        values = random.choice(values, cap, replace=False)
    low, high = score_range(score)
    mixture = fit_gap_mixture(values, n_init=n_init, seed=seed)
    if values.min() < low - 1e-6 or values.max() > high + 1e-6:
        raise ValueError(f"{score} gaps must lie in [{low:g}, {high:g}]")
    values = values.clip(low, high)

    null = _OneGroup.fit(values, low=low if score == "min_score" else -1.0, folded=score == "absolute")
    bic_one, bic_two = bic_one_gaussian(values), mixture.bic(values)
    bic_null = 2 * float(np.log(len(values))) - 2 * null.log_likelihood(values)
    differences = []
    for _ in range(simulations):
        sample = null.sample(len(values), random)
        try:
            two = fit_gap_mixture(sample, n_init=n_init, seed=seed).bic(sample)
        except DegenerateMixture:
            two = np.inf  # the values themselves would have been turned away
        differences.append(bic_one_gaussian(sample) - two)
    reached = sum(difference >= bic_one - bic_two for difference in differences)
    rank = (1 + reached) / (1 + simulations)

    doubts = []
    if bic_two >= bic_null:
        doubts.append("a single group of bounded gaps describes them at least as well")
    if rank > SIGNIFICANT:
        doubts.append(f"{reached} of {simulations} samples of a single group gain as much from a second component")
    if mixture.ashman_d <= CLEARLY_APART:
        doubts.append(f"the components overlap (Ashman's D {mixture.ashman_d:.1f}, not above {CLEARLY_APART:g})")
    if doubts:
        verdict = "No evidence of two groups: " + "; ".join(doubts) + "."
    else:
        verdict = (
            f"The gaps look like two groups: two components describe them better than a single group of bounded gaps "
            f"(BIC {bic_two:.0f} against {bic_null:.0f}), gain more than in {simulations - reached} of {simulations} "
            f"samples of that group, and lie apart (Ashman's D {mixture.ashman_d:.1f})."
        )
    return NullCheck(
        score=score,
        clips=len(values),
        bic_one=bic_one,
        bic_two=bic_two,
        bic_null=bic_null,
        null_location=null.location,
        null_scale=null.scale,
        means=mixture.means,
        weights=mixture.weights,
        ashman_d=mixture.ashman_d,
        null_differences=tuple(differences),
        rank=rank,
        two_groups=not doubts,
        verdict=verdict,
    )


@dataclass(frozen=True)
class _OneGroup:
    """A normal cut to [low, 1] and, if `folded`, replaced by its absolute value."""

    location: float
    scale: float
    low: float
    folded: bool

    @classmethod
    def fit(cls, values: np.ndarray, *, low: float, folded: bool) -> "_OneGroup":
        """Maximum likelihood."""

        def loss(parameters: np.ndarray) -> float:
            location, log_scale = parameters
            return -cls(location, float(np.exp(log_scale)), low, folded).log_likelihood(values) / len(values)

        # A group at the folding point and one away from it are two maxima. The bounds keep the limits of a cut normal
        # (flat, exponential) from running to infinity: at 3 widths of the range they are reached closely enough.
        rms = float(np.sqrt(np.square(values).mean()))
        starts = [(values.mean(), values.std()), (0.0, rms)]
        bounds = [(0.0 if folded else -3.0, 3.0), (np.log(1e-4), np.log(3.0))]
        fits = [scipy.optimize.minimize(loss, (at, np.log(width)), bounds=bounds) for at, width in starts]
        location, log_scale = min(fits, key=lambda fit: fit.fun).x
        return cls(float(location), float(np.exp(log_scale)), low, folded)

    def log_likelihood(self, values: np.ndarray) -> float:
        density = self._cut_normal().logpdf(values)
        if self.folded:
            density = np.logaddexp(density, self._cut_normal().logpdf(-values))
        return float(density.sum())

    def sample(self, size: int, random: np.random.Generator) -> np.ndarray:
        draws = self._cut_normal().rvs(size, random_state=random)
        return np.abs(draws) if self.folded else draws

    def _cut_normal(self) -> "scipy.stats.distributions.rv_frozen":
        ends = (self.low - self.location) / self.scale, (1 - self.location) / self.scale
        return scipy.stats.truncnorm(*ends, loc=self.location, scale=self.scale)
