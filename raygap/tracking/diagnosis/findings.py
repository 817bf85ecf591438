"""The numbers of a diagnosis, from what a model says of clips."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from raygap.data.predictions import MODALITIES, READOUTS, Predictions
from raygap.errors import UserError
from raygap.imbalance.calibration import Calibration, calibration
from raygap.imbalance.correction import CORRECTIONS, FOLDS, Correction, accuracy_gain, cross_fitted
from raygap.imbalance.decision_layer import LogitShares, adds_up, logit_shares, norms
from raygap.imbalance.discrepancy import cumulative_score
from raygap.imbalance.estimate import NORMAL_95, Estimate
from raygap.imbalance.gap import GapScore, mixture_values, modality_gap
from raygap.imbalance.mixture import DegenerateMixture
from raygap.imbalance.null_check import NullCheck, check_two_groups
from raygap.imbalance.shapley import Shapley, shapley_of_accuracy
from raygap.imbalance.spoiled import KINDS, Others, find_spoiled
from raygap.tracking.figures import GapHistogram
from raygap.tracking.spoiled import Suspects, averaged_over, averaged_scores

KEPT = 0.5
"""A clip belongs to the balanced subset if P(balanced) reaches this."""


@dataclass(frozen=True, eq=False)
class Gaps:
    """Scores and gaps of the clips of a split, and whether they are two groups."""

    predictions: Predictions
    scores: dict[str, np.ndarray]
    """(N,) by modality."""
    gap: np.ndarray
    """(N,), signed."""
    histogram: GapHistogram
    """Of what the mixture is fitted to, with the mixture."""
    check: NullCheck | None
    """None where no mixture could be fitted; the histogram has the reason."""
    balanced: np.ndarray
    """(N,): P(balanced); NaN without a mixture."""

    @property
    def sentence(self) -> str:
        """Whether they are two groups, in words."""
        return self.check.verdict if self.check else f"No mixture was fitted: {self.histogram.reason}."

    @property
    def kept(self) -> np.ndarray:
        """Positions of the balanced subset."""
        return np.flatnonzero(self.balanced >= KEPT)


@dataclass(frozen=True, eq=False)
class Corrected:
    """A correction, fitted to all clips given for it, and how it does on clips that it was not fitted to."""

    correction: Correction
    result: Calibration
    """Of the corrected fused answer; cross-fitted where it is judged on the clips of the fit."""
    accuracy_gain: Estimate
    """To the uncorrected answer, paired by clip."""
    log_loss_drop: Estimate
    validation_gain: Estimate
    """Of accuracy, cross-fitted on the clips of the fit, whatever clips the rest is of."""

    @property
    def advised(self) -> bool:
        """More right answers on validation, beyond the interval, which is that of the best of so many corrections."""
        widened = norm.ppf(1 - 0.025 / len(CORRECTIONS)) / NORMAL_95
        return bool(self.validation_gain.mean > widened * self.validation_gain.half_width)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """All that is known of a model's imbalance."""

    source: str
    """What was diagnosed, for the title."""
    score: GapScore
    judged_on: str
    """Name of the clips that accuracies and everything but the gaps are of: a split, or "all"."""
    clips: Predictions
    """Those clips."""
    gaps: dict[str, Gaps]
    """By split; "all" where none are known."""
    right: dict[str, np.ndarray]
    """By read-out: whether it answers each clip rightly, (N,)."""
    constant: np.ndarray
    """Whether always answering the most frequent class would be right, (N,)."""
    shapley: dict[str, Shapley]
    """By what a coalition without a modality is."""
    calibration: dict[str, Calibration]
    """By read-out."""
    shares: LogitShares | None
    """None where the fused logits are not known to be a sum of a part a modality."""
    feature_norms: dict[str, np.ndarray]
    """(N,) by modality, where features are known."""
    weight_norms: dict[str, np.ndarray]
    """(C,) by modality, where the head is known."""
    discrepancy: dict[str, np.ndarray]
    """By epoch, where known: epoch, difference = S_audio - S_visual, and audio, visual = S_m."""
    fitted_on: str = ""
    """Name of the clips that corrections were fitted to; empty: none were."""
    corrections: list[Corrected] = field(default_factory=list)
    method: str = ""
    """Training method, where known."""
    suspects: Suspects | None = None
    """Clips that are probably spoiled; None where that cannot be told."""
    notes: tuple[str, ...] = ()

    @property
    def lead(self) -> Estimate:
        """Accuracy of audio alone less that of visual alone, paired by clip."""
        return Estimate.of(self.right["audio"].astype(float) - self.right["visual"])

    @property
    def fusion_gain(self) -> Estimate:
        """Accuracy of the fused answer less that of the better modality alone, paired by clip."""
        better = max(MODALITIES, key=lambda name: self.right[name].mean())
        return Estimate.of(self.right["fused"].astype(float) - self.right[better])

    @property
    def best_correction(self) -> Corrected | None:
        """The one with the smallest log loss, if that is clearly below the uncorrected one."""
        better = [found for found in self.corrections if found.log_loss_drop.clear and found.log_loss_drop.mean > 0]
        return min(better, key=lambda found: found.result.log_loss, default=None)

    @property
    def advised_correction(self) -> Corrected | None:
        """The one that adds most right answers on validation, if any is advised; test has no say in it."""
        advised = [found for found in self.corrections if found.advised]
        return max(advised, key=lambda found: found.validation_gain.mean, default=None)


def diagnose(
    predictions: Predictions,
    *,
    source: str,
    score: GapScore,
    split: str | None,
    correct: bool,
    seed: int,
    method: str = "",
    metrics: Path | None = None,
    trainings: Sequence[Path] = (),
) -> Diagnosis:
    """Diagnose what a model says of clips.

    `split` names the clips that everything but the gaps is about (None: all clips); gaps are of train too, if it is
    there. `correct` fits the corrections to val (or, without splits, to all clips) and judges them cross-fitted there;
    where split is test, on test. `metrics` is the metrics.parquet of the training; `trainings` are folders whose
    ledgers tell which training clips are spoiled, better than one look at them can. Raises UserError for a split that
    has no clips, or too few to fit corrections to.
    """
    needed = {split, "val"} if correct else {split}
    for name in needed if split else ():
        if predictions.splits is None or name not in predictions.splits:
            raise UserError(f"{source}: no clips of split {name}; it has {_counts(predictions.splits)}")
    names = {"all": predictions} if split is None else {}
    for name in dict.fromkeys(("train", split)) if split else ():
        rows = predictions.splits == name
        if rows.any():
            names[name] = predictions.of(rows)
    judged_on = split or "all"
    clips = names[judged_on]
    right = {name: clips.logits[name].argmax(axis=1) == clips.labels for name in READOUTS}
    # The most frequent class of the training clips, if they are known.
    frequent = np.bincount(names.get("train", clips).labels).argmax()
    constant = clips.labels == frequent
    parts, notes = _parts(clips)
    suspected, why = _suspects(next(iter(names.values())), trainings, seed)
    notes += why
    fit_on = "val" if split else "all"
    return Diagnosis(
        source=source,
        score=score,
        judged_on=judged_on,
        clips=clips,
        gaps={name: _gaps(some, score, seed) for name, some in names.items()},
        right=right,
        constant=constant,
        shapley=_shapley(clips, right, constant),
        calibration={name: calibration(clips.logits[name], clips.labels) for name in READOUTS},
        shares=logit_shares(**parts, labels=clips.labels) if parts else None,
        feature_norms={name: norms(values) for name, values in clips.features.items()},
        weight_norms={name: norms(values) for name, values in clips.weights.items()},
        discrepancy=_discrepancy(metrics),
        fitted_on=fit_on if correct else "",
        corrections=_corrections(_held_out(predictions, fit_on, source), clips, split == "test", seed)
        if correct
        else [],
        method=method,
        suspects=suspected,
        notes=(*predictions.notes, *notes),
    )


def _suspects(clips: Predictions, trainings: Sequence[Path], seed: int) -> tuple[Suspects | None, list[str]]:
    """Of the training clips, where they are known; or why it cannot be told."""
    probabilities = {name: softmax(clips.logits[name], axis=1) for name in MODALITIES}
    names, rows = np.array(clips.class_names), np.arange(len(clips))
    scores, about = {name: p[rows, clips.labels] for name, p in probabilities.items()}, "by the trained network"
    if trainings:
        ids, _, averaged, count = averaged_scores(trainings)
        places = {name: place for place, name in enumerate(ids.tolist())}
        if all(name in places for name in clips.ids.tolist()):
            order = [places[name] for name in clips.ids.tolist()]
            scores = {name: values[order] for name, values in averaged.items()}
            about = averaged_over(count)
    others = {name: Others.of(p, clips.labels) for name, p in probabilities.items()}
    others = {name: Others(names[other.label], other.score) for name, other in others.items()}
    try:
        found = find_spoiled(scores["audio"], scores["visual"], clips.labels, others, seed)
    except DegenerateMixture as reason:
        return None, [f"Which clips are spoiled cannot be told: {reason}."]
    return Suspects(clips.ids, names[clips.labels], scores, others, found, about), []


def _counts(splits: np.ndarray | None) -> str:
    if splits is None:
        return "no splits"
    return ", ".join(f"{count} of {name}" for name, count in zip(*np.unique(splits, return_counts=True), strict=True))


def _held_out(predictions: Predictions, name: str, source: str) -> Predictions:
    clips = predictions if name == "all" else predictions.of(predictions.splits == name)
    if len(clips) < 2 * FOLDS:
        raise UserError(f"{source}: {len(clips)} clips are too few to fit corrections to; leave --correct out")
    return clips


def _gaps(predictions: Predictions, score: GapScore, seed: int) -> Gaps:
    rows = np.arange(len(predictions))
    scores = {name: softmax(predictions.logits[name], axis=1)[rows, predictions.labels] for name in MODALITIES}
    values = mixture_values(scores["audio"], scores["visual"], score)
    histogram = GapHistogram.of(values, seed)
    mixture, check = histogram.mixture, None
    balanced = np.full(len(values), np.nan)
    if mixture:
        balanced = 1 - mixture.imbalanced(values)
        try:
            check = check_two_groups(values, score, n_init=4, seed=seed)
        except DegenerateMixture as reason:  # of the subset that it looks at
            histogram = GapHistogram(histogram.edges, histogram.counts, None, str(reason))
            balanced[:] = np.nan
    return Gaps(predictions, scores, modality_gap(scores["audio"], scores["visual"]), histogram, check, balanced)


def _shapley(clips: Predictions, right: dict[str, np.ndarray], constant: np.ndarray) -> dict[str, Shapley]:
    found = {"read-outs": shapley_of_accuracy(constant, right["audio"], right["visual"], right["fused"])}
    if clips.alone:
        alone = {name: logits.argmax(axis=1) == clips.labels for name, logits in clips.alone.items()}
        found["mean features"] = shapley_of_accuracy(**alone, both=right["fused"])
    return found


def _parts(clips: Predictions) -> tuple[dict[str, np.ndarray], list[str]]:
    """What each modality adds to the fused logits, if that is known; else why not."""
    unimodal = {name: clips.logits[name] for name in MODALITIES}
    for parts in (clips.parts, unimodal):
        if parts and adds_up(clips.logits["fused"], **parts):
            return parts, []
    what = "features and head weights do not give" if clips.parts else "unimodal logits do not add up to"
    return {}, [f"The {what} the fused logits: how much of them each modality makes is not known."]


def _discrepancy(metrics: Path | None) -> dict[str, np.ndarray]:
    if metrics is None or not metrics.exists():
        return {}
    table = pq.read_table(metrics).to_pydict()
    known = [i for i, gap in enumerate(table.get("gap_mean", [])) if gap is not None]
    if not known:
        return {}
    columns = {name: np.array([table[name][i] for i in known]) for name in ("epoch", "gap_mean")}
    found = {"epoch": columns["epoch"], "difference": cumulative_score(columns["gap_mean"])}
    for name in MODALITIES:
        if f"score_{name}_mean" in table:
            found[name] = cumulative_score(np.array([table[f"score_{name}_mean"][i] for i in known]))
    return found


def _corrections(fitted_to: Predictions, clips: Predictions, held_out: bool, seed: int) -> list[Corrected]:
    """`held_out`: the clips are others than those that the corrections are fitted to."""
    if not held_out:
        clips = fitted_to
    before = _losses(clips.logits["fused"], clips.labels)
    found = []
    for kind in CORRECTIONS.values():
        correction = kind.fit(fitted_to.logits, fitted_to.labels)
        crossed = cross_fitted(kind, fitted_to.logits, fitted_to.labels, seed)
        answer = correction.apply(clips.logits) if held_out else crossed
        found.append(
            Corrected(
                correction,
                calibration(answer, clips.labels),
                accuracy_gain(clips.logits["fused"], answer, clips.labels),
                Estimate.of(before - _losses(answer, clips.labels)),
                accuracy_gain(fitted_to.logits["fused"], crossed, fitted_to.labels),
            )
        )
    return found


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def numbers(diagnosis: Diagnosis) -> dict[str, Any]:
    """All of it, as diagnosis.json holds it: plain numbers, None where one is not known."""
    return _plain(
        {
            "source": diagnosis.source,
            "method": diagnosis.method,
            "score": diagnosis.score,
            "judged_on": diagnosis.judged_on,
            "clips": len(diagnosis.clips),
            "classes": list(diagnosis.clips.class_names),
            "gaps": {name: _gap_numbers(gaps) for name, gaps in diagnosis.gaps.items()},
            "accuracy": {name: right.mean() for name, right in diagnosis.right.items()}
            | {"most_frequent_class": diagnosis.constant.mean()},
            "lead_of_audio": vars(diagnosis.lead),
            "fusion_gain": vars(diagnosis.fusion_gain),
            "shapley": {name: vars(found) for name, found in diagnosis.shapley.items()},
            "calibration": {name: vars(found) for name, found in diagnosis.calibration.items()},
            "logit_shares": vars(diagnosis.shares) if diagnosis.shares else None,
            "feature_norms": {name: values.mean() for name, values in diagnosis.feature_norms.items()},
            "weight_norms": diagnosis.weight_norms,
            "cumulative_discrepancy": diagnosis.discrepancy,
            "corrections": {
                found.correction.name: {
                    "fitted_on": diagnosis.fitted_on,
                    "judged_on": judged(diagnosis),
                    **vars(found.result),
                    "accuracy_gain": vars(found.accuracy_gain),
                    "log_loss_drop": vars(found.log_loss_drop),
                    "validation_gain": vars(found.validation_gain),
                    "advised": found.advised,
                    "parameters": found.correction.to_mapping(),
                }
                for found in diagnosis.corrections
            },
            "spoiled": {kind: len(diagnosis.suspects.found.listed(kind)) for kind in KINDS}
            if diagnosis.suspects
            else None,
            "notes": list(diagnosis.notes),
        }
    )


def judged(diagnosis: Diagnosis) -> str:
    """What the corrections' numbers are of."""
    if diagnosis.judged_on == "test":
        return f"test, fitted to {diagnosis.fitted_on}"
    return f"{diagnosis.fitted_on}, cross-fitted in {FOLDS} folds"


def _gap_numbers(gaps: Gaps) -> dict[str, Any]:
    mixture = gaps.histogram.mixture
    return {
        "clips": len(gaps.gap),
        "gap_mean": gaps.gap.mean(),
        "gap_absolute_mean": np.abs(gaps.gap).mean(),
        "score_audio_mean": gaps.scores["audio"].mean(),
        "score_visual_mean": gaps.scores["visual"].mean(),
        "histogram": {"edges": gaps.histogram.edges, "counts": gaps.histogram.counts},
        "mixture": vars(mixture) if mixture else None,
        "null_check": vars(gaps.check) if gaps.check else None,
        "two_groups": gaps.check.two_groups if gaps.check else None,
        "verdict": gaps.sentence,
        "balanced_clips": len(gaps.kept),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in (value.tolist() if isinstance(value, np.ndarray) else value)]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
