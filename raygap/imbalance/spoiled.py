"""Which training clips are probably spoiled, and how: the sound, the picture, their match, or the label.

From each clip's scores, averaged over trainings: q_m = P(modality m is good on the clip), by two Gaussians a modality
over the logits of the scores, centred by class. Where a modality is not good, how sure it is of another class
(o_m, the probability that its read-out gives the strongest other class) tells spoiled from mismatched:

    sound     (1 - q_a) q_v (1 - o_a)         picture   q_a (1 - q_v) (1 - o_v)
    mismatch  (1 - q_a) q_v o_a + q_a (1 - q_v) o_v + (1 - q_a)(1 - q_v) o_a o_v, where they name different classes
    label     (1 - q_a)(1 - q_v) o_a o_v, where both name the same other class

Half of what is left where both are bad counts for the sound, half for the picture: all four add up to 1 - q_a q_v.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from raygap.imbalance.gaussians import DegenerateMixture
from raygap.imbalance.null_check import CLEARLY_APART
from raygap.imbalance.scores_mixture import CLIP, centred, fit_reliability

Kind = Literal["sound", "picture", "mismatch", "label"]
KINDS: dict[Kind, str] = {
    "sound": "the sound tells nothing of the class, the picture does",
    "picture": "the picture tells nothing of the class, the sound does",
    "mismatch": "both look good, but one of them shows another class",
    "label": "both show the same class, which is not the label",
}
LISTED = 0.5
"""Clips are listed from this probability on."""
FEW = 0.05
"""Share of all clips that a kind lists at most where the groups it goes by are not well apart."""


@dataclass(frozen=True, eq=False)
class Others:
    """What a modality takes a clip for if not for its label: class (N,), and the probability that it gives it (N,)."""

    label: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, probabilities: np.ndarray, labels: np.ndarray) -> "Others":
        """From probabilities (N, C) and true classes (N,)."""
        others = probabilities.copy()
        others[np.arange(len(labels)), labels] = -1
        label = others.argmax(axis=1)
        return cls(label, others[np.arange(len(labels)), label])


@dataclass(frozen=True, eq=False)
class Spoiled:
    """`good`: P(modality is good on the clip), by modality, (N,). `probability` by kind, (N,); their sum is P(any).

    `about`: a sentence a modality on how sure that is.
    """

    good: dict[str, np.ndarray]
    probability: dict[Kind, np.ndarray]
    about: tuple[str, ...]
    apart: dict[str, bool]
    """By modality, whether the good and the bad are two groups, well apart."""

    @property
    def any(self) -> np.ndarray:
        """(N,): P(the clip is spoiled in some way)."""
        return np.minimum(sum(self.probability.values()), 1.0)

    @property
    def kind(self) -> np.ndarray:
        """(N,), text: the likeliest kind."""
        return np.array(list(self.probability))[np.argmax(list(self.probability.values()), axis=0)]

    def listed(self, kind: Kind) -> np.ndarray:
        """Positions of the clips to look at, the most probable first."""
        rows = np.flatnonzero((self.kind == kind) & (self.any >= LISTED))
        rows = rows[np.argsort(-self.any[rows], kind="stable")]
        needed = {"sound": ("audio",), "picture": ("visual",)}.get(kind, ("audio", "visual"))
        sure = all(self.apart[name] for name in needed)
        return rows if sure else rows[: int(FEW * len(self.any))]


def find_spoiled(
    audio: np.ndarray, visual: np.ndarray, labels: np.ndarray, others: dict[str, Others] | None = None, seed: int = 0
) -> Spoiled:
    """From scores (N,) in [0, 1] by modality and true classes (N,); `others` by modality, audio and visual.

    Without `others` no clip is called mismatched or mislabelled: the worse modality is called spoiled. Raises
    DegenerateMixture where no mixture can be fitted.
    """
    scores = {"audio": _centred(audio, labels), "visual": _centred(visual, labels)}
    found, state = fit_reliability(
        scores["audio"], scores["visual"], separator="scores1d", components=2, reg_covar=1e-3, n_init=4, seed=seed
    )
    q_a, q_v = found.audio, found.visual
    nothing = Others(labels, np.zeros(len(labels)))
    a, v = (others[name] if others else nothing for name in ("audio", "visual"))
    both = (1 - q_a) * (1 - q_v)
    sure, same = both * a.score * v.score, a.label == v.label
    rest = (both - sure) / 2
    probability: dict[Kind, np.ndarray] = {
        "sound": (1 - q_a) * q_v * (1 - a.score) + rest,
        "picture": q_a * (1 - q_v) * (1 - v.score) + rest,
        "mismatch": (1 - q_a) * q_v * a.score + q_a * (1 - q_v) * v.score + sure * ~same,
        "label": sure * same,
    }
    parts = {
        name: [state[f"{name}_{part}"].ravel() for part in ("means", "covariances", "weights")]
        for name in ("audio", "visual")
    }
    distance = {name: _ashman(means, variances) for name, (means, variances, _) in parts.items()}
    about = tuple(
        _in_words(what, distance[name], float(parts[name][2][np.argmin(parts[name][0])]))
        for what, name in (("sound", "audio"), ("picture", "visual"))
    )
    apart = {name: value > CLEARLY_APART for name, value in distance.items()}
    return Spoiled({"audio": q_a, "visual": q_v}, probability, about, apart)


def _centred(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,): scores whose logits have the same median in every class. Raises DegenerateMixture for what is no score."""
    if not np.isfinite(scores).all():
        raise DegenerateMixture(f"{int((~np.isfinite(scores)).sum())} clips have no score")
    logits = logit(np.clip(scores.astype(np.float64), CLIP, 1 - CLIP))
    return expit(centred(logits[:, None], labels)[:, 0])


def _ashman(means: np.ndarray, variances: np.ndarray) -> float:
    """Ashman's D of two Gaussians."""
    return float(np.ptp(means) * np.sqrt(2 / variances.sum()))


def _in_words(what: str, apart: float, worse: float) -> str:
    """`apart`: Ashman's D; `worse`: weight of the worse group."""
    share = f"{100 * worse:.0f} % of the clips"
    if apart > CLEARLY_APART:
        return f"By their {what} the clips are two groups, well apart (Ashman's D {apart:.1f}): {share} in the worse."
    return (
        f"By their {what} the clips are not two groups well apart (Ashman's D {apart:.1f}, of {CLEARLY_APART:g}): the "
        f"{share} in the worse may just be the hard ones, and no more than {100 * FEW:.0f} % a kind are listed. Look "
        "before you leave any out."
    )
