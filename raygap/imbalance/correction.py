"""Corrections of the decision layer: the fused answer made anew from fused and unimodal logits, after any training.

All are fitted to held-out clips, never to training clips, whose logits are too sure. Logits are a dict of `fused`,
`audio` and `visual`, each (N, C); log-probabilities serve as well. A corrected answer is (N, C) log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp, softmax

from raygap.imbalance.calibration import fit_temperature, log_loss
from raygap.imbalance.estimate import Estimate

Logits = Mapping[str, np.ndarray]
MODALITIES = ("audio", "visual")
READOUTS = ("fused", *MODALITIES)
MOST_WEIGHT, MOST_SHARPNESS = 20.0, 50.0
"""Bounds that keep the fit to separable clips finite."""
PRIOR = 1.0
"""Standard deviation of the normal prior on what the learned gate adds to its constant weights."""
FOLDS = 5


@dataclass(frozen=True)
class Correction:
    """Base. `temperatures` of audio and visual are fitted each by itself, by log loss."""

    name: ClassVar[str]
    about: ClassVar[str]
    """What it does, half a sentence."""
    temperatures: dict[str, float]

    @classmethod
    def fit(cls, logits: Logits, labels: np.ndarray) -> Self:
        """From clips held out of training; labels (N,)."""
        temperatures = {name: fit_temperature(logits[name], labels) for name in MODALITIES}
        return cls(temperatures, **cls._fit(logits, labels, temperatures))

    @classmethod
    def _fit(cls, logits: Logits, labels: np.ndarray, temperatures: dict[str, float]) -> dict[str, Any]:
        raise NotImplementedError

    def weights(self, tempered: Logits) -> dict[str, np.ndarray]:
        """Weight of each read-out's log-probabilities, which are tempered, in the sum: a scalar or (N,)."""
        raise NotImplementedError

    def apply(self, logits: Logits) -> np.ndarray:
        """The corrected fused answer, log-probabilities (N, C)."""
        return self._answer(_tempered(logits, self.temperatures))

    def _answer(self, tempered: Logits) -> np.ndarray:
        weights = self.weights(tempered)
        return log_softmax(sum(np.reshape(weights[name], (-1, 1)) * tempered[name] for name in weights), axis=1)

    def alone(self, modality: str, logits: np.ndarray) -> np.ndarray:
        """The answer for clips (N, C) of which only this modality is there: its tempered read-out."""
        return log_softmax(logits / self.temperatures[modality], axis=1)

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers by name, which from_mapping reads back."""
        return {"correction": self.name, **asdict(self)}


@dataclass(frozen=True)
class TemperatureWeights(Correction):
    """weight_fused * log p_fused + weight_audio * log p_audio / T_audio + weight_visual * log p_visual / T_visual.

    The weights are at least 0. The loss is convex in them, and (1, 0, 0) is no correction: on the clips it was fitted
    to, the log loss is never above the uncorrected one.
    """

    name = "temperature_weights"
    about = "a temperature a modality, and one reliability weight a read-out"
    readout_weights: dict[str, float]

    @classmethod
    def _fit(cls, logits: Logits, labels: np.ndarray, temperatures: dict[str, float]) -> dict[str, Any]:
        tempered = _tempered(logits, temperatures)
        weights = _descend(tempered, np.ones((len(labels), 1)), labels, least=0.0)[:, 0]
        return {"readout_weights": dict(zip(READOUTS, weights.tolist(), strict=True))}

    def weights(self, tempered: Logits) -> dict[str, np.ndarray]:
        """The same for every clip."""
        return {name: np.array([weight]) for name, weight in self.readout_weights.items()}


@dataclass(frozen=True)
class EntropyGate(Correction):
    """scale * sum over m of g_m * log p_m / T_m, with g = softmax(-sharpness * H_m) over both modalities.

    H_m is the entropy of the tempered read-out over log C, in [0, 1]: of a clip, the modality that is surer counts for
    more. Sharpness 0 and scale 2 is the product of both tempered read-outs. The fused logits are not used. (The gate by
    entropy is MLA's, Zhang et al., CVPR 2024; sharpness and scale are fitted here.)
    """

    name = "entropy_gate"
    about = "both read-outs, the surer one of a clip counting for more"
    sharpness: float
    scale: float

    @classmethod
    def _fit(cls, logits: Logits, labels: np.ndarray, temperatures: dict[str, float]) -> dict[str, Any]:
        tempered = _tempered(logits, temperatures)

        def loss(sharpness: float, scale: float) -> float:
            return log_loss(cls(temperatures, sharpness, scale)._answer(tempered), labels)

        # Two starts, since the loss is not convex in the sharpness; the first is the plain product.
        bounds = [(0, MOST_SHARPNESS), (1e-3, MOST_WEIGHT)]
        starts = [(0.0, 2.0), (5.0, 2.0)]
        fits = [minimize(lambda at: loss(*at), start, bounds=bounds, method="L-BFGS-B").x for start in starts]
        sharpness, scale = min([*fits, starts[0]], key=lambda at: loss(*at))
        return {"sharpness": float(sharpness), "scale": float(scale)}

    def weights(self, tempered: Logits) -> dict[str, np.ndarray]:
        """By the clip's entropies."""
        entropies = np.stack([_entropy(tempered[name]) for name in MODALITIES])
        gate = softmax(-self.sharpness * entropies, axis=0)
        return dict(zip(MODALITIES, self.scale * gate, strict=True))


@dataclass(frozen=True)
class LearnedGate(Correction):
    """Weights of the three read-outs that are linear in four numbers of a clip: entropy and confidence a modality.

    Entropy over log C, and the largest probability stretched from [1 / C, 1] to [0, 1], of the tempered read-outs. A
    logistic regression with a normal prior of deviation 1 on all but the constant weights: convex, and as above never
    worse than uncorrected on the clips it was fitted to.
    """

    name = "learned_gate"
    about = "weights by the clip's entropies and confidences, from a small logistic regression"
    gate: dict[str, list[float]]
    """A read-out's constant weight, then those of the entropies of audio and visual, then of their confidences."""

    @classmethod
    def _fit(cls, logits: Logits, labels: np.ndarray, temperatures: dict[str, float]) -> dict[str, Any]:
        tempered = _tempered(logits, temperatures)
        gate = _descend(tempered, _gate_inputs(tempered), labels, prior=1 / PRIOR**2)
        return {"gate": dict(zip(READOUTS, gate.tolist(), strict=True))}

    def weights(self, tempered: Logits) -> dict[str, np.ndarray]:
        """By the clip's entropies and confidences."""
        inputs = _gate_inputs(tempered)
        return {name: inputs @ np.array(weights) for name, weights in self.gate.items()}


CORRECTIONS: dict[str, type[Correction]] = {kind.name: kind for kind in (TemperatureWeights, EntropyGate, LearnedGate)}


def from_mapping(content: Mapping[str, Any]) -> Correction:
    """Inverse of to_mapping. Raises KeyError, TypeError or ValueError for what to_mapping cannot have written."""
    content = dict(content)
    kind = CORRECTIONS[content.pop("correction")]
    expected = {field.name for field in fields(kind)}
    if set(content) != expected:
        raise ValueError(f"expected {', '.join(sorted(expected))}")
    correction = kind(**content)
    # What is missing, or no number, shows as soon as it is used.
    if not np.isfinite(correction.apply({name: np.zeros((1, 2)) for name in READOUTS})).all():
        raise ValueError("expected finite numbers")
    return correction


def cross_fitted(kind: type[Correction], logits: Logits, labels: np.ndarray, seed: int) -> np.ndarray:
    """Corrected log-probabilities (N, C) of clips, each by a correction fitted to the four fifths without it.

    The folds are drawn from the seed, each with its share of every class. Raises ValueError for fewer than 10 clips.
    """
    if len(labels) < 2 * FOLDS:
        raise ValueError(f"{len(labels)} clips are too few for {FOLDS} folds")
    order = np.lexsort((np.random.default_rng(seed).permutation(len(labels)), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    answer = np.empty(logits["fused"].shape)
    for i in range(FOLDS):
        fitted = kind.fit({name: values[fold != i] for name, values in logits.items()}, labels[fold != i])
        answer[fold == i] = fitted.apply({name: values[fold == i] for name, values in logits.items()})
    return answer


def accuracy_gain(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> Estimate:
    """Of one answer (N, C) in place of another, paired by clip."""
    right, other = (answer.argmax(axis=1) == labels for answer in (after, before))
    return Estimate.of(right.astype(float) - other)


def _tempered(logits: Logits, temperatures: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Log-probabilities of each read-out at its temperature; the fused one as it is."""
    temperatures = {"fused": 1.0, **temperatures}
    return {name: log_softmax(logits[name] / temperatures[name], axis=1) for name in READOUTS}


def _entropy(log_p: np.ndarray) -> np.ndarray:
    """(N,), over log C."""
    p = np.exp(log_p)
    return -np.where(p > 0, p * log_p, 0).sum(axis=1) / np.log(log_p.shape[1])


def _gate_inputs(tempered: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, 5): one, entropies, confidences."""
    chance = 1 / tempered["audio"].shape[1]
    entropies = [_entropy(tempered[name]) for name in MODALITIES]
    confidences = [(np.exp(tempered[name].max(axis=1)) - chance) / (1 - chance) for name in MODALITIES]
    return np.stack([np.ones(len(entropies[0])), *entropies, *confidences], axis=1)


def _descend(
    tempered: Mapping[str, np.ndarray],
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    least: float | None = None,
    prior: float = 0.0,
) -> np.ndarray:
    """The W (3, J) for which softmax(sum over read-outs m of (inputs @ W_m) * log p_m) has the smallest log loss.

    `inputs` (N, J) begin with a one. `least` bounds W, `prior` adds prior * W^2 / (2 N) but for the constant weights.
    Convex; the descent begins at no correction, constant weights (1, 0, 0), and never ends above it.
    """
    stack, rows = np.stack([tempered[name] for name in READOUTS]), np.arange(len(labels))
    true = stack[:, rows, labels]
    start = np.zeros((len(READOUTS), inputs.shape[1]))
    start[0, 0] = 1.0
    priors = np.full(start.shape, prior)
    priors[:, 0] = 0.0

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        scores = np.einsum("mn,mnc->nc", weights @ inputs.T, stack)
        log_sum = logsumexp(scores, axis=1)
        p = np.exp(scores - log_sum[:, None])
        slope = (np.einsum("mnc,nc->mn", stack, p) - true) @ inputs + priors * weights
        value = (log_sum - scores[rows, labels]).sum() + 0.5 * (priors * weights**2).sum()
        return value / len(labels), slope.ravel() / len(labels)

    bounds = None if least is None else [(least, MOST_WEIGHT)] * start.size
    found = minimize(loss, start.ravel(), jac=True, bounds=bounds, method="L-BFGS-B")
    return found.x.reshape(start.shape) if found.fun <= loss(start.ravel())[0] else start
