"""Which modality of a clip can be trusted: the separators of gmm_scores, over the averaged scores."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raygap.imbalance.gap import mixture_values
from raygap.imbalance.gaussians import DegenerateMixture, Gaussians, fit_gaussians
from raygap.imbalance.mixture import GapMixture, fit_gap_mixture

Separator = Literal["scores2d", "scores1d", "min_score", "raw"]
State = dict[str, np.ndarray]

CLIP = 0.002
"""Scores are clipped to [0.002, 0.998] before the logit: beyond, the logit measures rounding, not the clip."""

FEWEST = 10
"""A class of fewer clips says little about how hard it is: its scores are left as they are."""

OVERLAP = 0.5
"""Below `distinct` by this much in Ashman's D, two groups are none; between, they count in part."""

TOLERANCE = 1e-3
"""Not smaller: the last thousandths of likelihood come from components that shrink onto the clips piled up at the
clipping points, and are paid for in separation."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """P(audio is good), P(visual is good), P(both are good): q_a, q_v, q_j, each (N,), float64 in [0, 1]."""

    audio: np.ndarray
    visual: np.ndarray
    joint: np.ndarray


def fit_reliability(
    audio_average: np.ndarray,
    visual_average: np.ndarray,
    *,
    separator: Separator,
    components: int,
    reg_covar: float,
    n_init: int,
    seed: int,
    start: State | None = None,
    classes: np.ndarray | None = None,
    distinct: float = 0.0,
) -> tuple[Reliability, State]:
    """Reliability of each clip from its averaged scores (N,), and the state that warm-starts the next fit.

    With `classes` (N,), the labels, scores2d and scores1d are fitted to logits that are centred by class.

    * scores2d: a mixture of `components` Gaussians over the standardised pair of logits. A component is good in a
      modality if its mean there lies above the midpoint of the smallest and largest component mean; q_a, q_v and q_j
      are the summed posteriors of the components good in audio, in visual and in both.
    * scores1d: two Gaussians a modality over its standardised logit (`components` speaks of the pair alone: one
      modality is either good or bad); q_j = q_a q_v. Where the two lie nearer to each other than `distinct` in
      Ashman's D, they may be one group cut in two: q is then drawn towards 1 (see together).
    * min_score: the mixture of balanced and imbalanced clips over 1 - min(score audio, score visual), unstandardised,
      with its own regulariser; q_a = q_v = q_j = P(balanced).
    * raw: no mixture; q_a and q_v are the averaged scores, q_j = q_a q_v as in scores1d.

    `reg_covar` is in squared standard deviations. `start` must come from a fit with the same separator and components;
    it is in standardised units, so that it moves along as training lifts all scores.

    Raises DegenerateMixture if a score is NaN or infinite, a modality's scores are all equal, or the mixture is
    degenerate (fit_gaussians; min_score: fit_gap_mixture); ValueError for another separator.
    """
    pair = np.stack([audio_average, visual_average], axis=1).astype(np.float64)
    if not np.isfinite(pair).all():
        raise DegenerateMixture(f"{int((~np.isfinite(pair)).any(axis=1).sum())} clips have no finite average score")
    if separator == "raw":
        audio, visual = np.clip(pair, 0, 1).T
        return Reliability(audio, visual, audio * visual), {}
    if separator == "min_score":
        values = mixture_values(pair[:, 0], pair[:, 1], "min_score")
        last = GapMixture.from_state_dict(start) if start else None
        mixture = fit_gap_mixture(values, n_init=n_init, seed=seed, start=last)
        balanced = 1 - mixture.imbalanced(values)
        return Reliability(balanced, balanced, balanced), mixture.state_dict()

    logits = _standardised(centred(_logits(pair), classes) if classes is not None else _logits(pair))
    fit: dict[str, Any] = {"reg_covar": reg_covar, "tolerance": TOLERANCE, "n_init": n_init, "seed": seed}
    if separator == "scores1d":
        one_modality = {"audio": logits[:, :1], "visual": logits[:, 1:]}
        mixtures = {
            name: fit_gaussians(values, 2, start=_read(start, f"{name}_"), **fit)
            for name, values in one_modality.items()
        }
        audio, visual = (
            together(
                _summed(mixtures[name].posteriors(values), _good(mixtures[name].means[:, 0])), mixtures[name], distinct
            )
            for name, values in one_modality.items()
        )
        state = {key: array for name in mixtures for key, array in _write(mixtures[name], f"{name}_").items()}
        return Reliability(audio, visual, audio * visual), state
    if separator == "scores2d":
        gaussians = fit_gaussians(logits, components, start=_read(start), **fit)
        posteriors = gaussians.posteriors(logits)
        good_audio, good_visual = _good(gaussians.means[:, 0]), _good(gaussians.means[:, 1])
        reliability = Reliability(
            _summed(posteriors, good_audio),
            _summed(posteriors, good_visual),
            _summed(posteriors, good_audio & good_visual),
        )
        return reliability, _write(gaussians)
    raise ValueError(f"unknown separator {separator!r}: scores2d, scores1d, min_score or raw")


def together(good: np.ndarray, gaussians: Gaussians, distinct: float) -> np.ndarray:
    """1 - s (1 - q) of q (N,), with s = (D - distinct + OVERLAP) / OVERLAP between 0 and 1, and D Ashman's distance of
    two Gaussians in one dimension: at s = 0 all clips are good.
    """
    (one, other), widths = gaussians.means[:, 0], gaussians.covariances[:, 0, 0]
    ashman_d = np.sqrt(2) * abs(one - other) / np.sqrt(widths.sum())
    return 1 - np.clip((ashman_d - distinct + OVERLAP) / OVERLAP, 0, 1) * (1 - good)


def centred(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N, 2) less the median of the clip's class, plus that of all clips, a modality: classes differ in difficulty.

    A class of fewer than FEWEST clips stays as it is.
    """
    centred, overall = logits.copy(), np.median(logits, axis=0)
    for label in np.setdiff1d(classes, small_classes(classes)):
        members = classes == label
        centred[members] += overall - np.median(logits[members], axis=0)
    return centred


def small_classes(classes: np.ndarray) -> np.ndarray:
    """Labels, ascending, of the classes with too few clips for a centre of their own."""
    labels, counts = np.unique(classes, return_counts=True)
    return labels[counts < FEWEST]


def _logits(pair: np.ndarray) -> np.ndarray:
    clipped = np.clip(pair, CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def _standardised(logits: np.ndarray) -> np.ndarray:
    # Sums over sorted columns: the fit must not depend on the order of the clips, not even in the last bit.
    ordered = np.sort(logits, axis=0)
    if (ordered[0] == ordered[-1]).any():
        raise DegenerateMixture("the scores of a modality are all equal")
    return (logits - ordered.mean(axis=0)) / ordered.std(axis=0)


def _good(means: np.ndarray) -> np.ndarray:
    """Which components (K,) lie above the midpoint of the smallest and the largest mean."""
    return means > (means.min() + means.max()) / 2


def _summed(posteriors: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return np.minimum(posteriors[:, chosen].sum(axis=1), 1.0)


def _write(gaussians: Gaussians, prefix: str = "") -> State:
    return {prefix + name: getattr(gaussians, name).copy() for name in ("weights", "means", "covariances")}


def _read(state: State | None, prefix: str = "") -> Gaussians | None:
    if not state:
        return None
    return Gaussians(*(np.asarray(state[prefix + name]) for name in ("weights", "means", "covariances")))
