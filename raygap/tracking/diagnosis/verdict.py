"""What the numbers of a diagnosis say, in plain words, and what to try next."""

from dataclasses import dataclass

from raygap.called import command
from raygap.data.predictions import MODALITIES
from raygap.tracking.diagnosis.findings import Diagnosis, Estimate, Gaps, judged

FEW_CLIPS = 200
MISCALIBRATED = 0.05
"""Confidence this far from accuracy is worth a word."""
LISTENS_TOO_MUCH = 0.15
"""Share of the fused logits above the share of the accuracy, worth a word."""


@dataclass(frozen=True)
class Sentence:
    """`tone`: plain, good, doubt or bad."""

    text: str
    tone: str = "plain"


def verdict(diagnosis: Diagnosis) -> list[Sentence]:
    """What is found, most important first."""
    return [
        *_small(diagnosis),
        _who_leads(diagnosis),
        *_at_chance(diagnosis),
        _fusion(diagnosis),
        _contributions(diagnosis),
        *(_groups(name, gaps) for name, gaps in diagnosis.gaps.items()),
        *_listening(diagnosis),
        *_confidence(diagnosis),
        *_corrections(diagnosis),
    ]


def advice(diagnosis: Diagnosis) -> list[str]:
    """What to try, most promising first. Hypotheses, each with the way to test it."""
    found = []
    leader = _leader(diagnosis)
    weaker = _weaker(diagnosis)
    if _knows_nothing(diagnosis, weaker):
        found.append(
            f"See whether {weaker} holds anything at all: {command('prepare', '--inspect')} shows what the network "
            f"sees, --method {weaker}_only what it reaches alone."
        )
    elif leader:
        found.append(
            f"See whether {weaker} is starved or only harder: train --method {weaker}_only. If alone it does clearly "
            f"better than the {100 * diagnosis.right[weaker].mean():.1f} % above, the joint training starves it."
        )
    if diagnosis.method in ("joint", "") and leader:
        found.append("Train with unimodal losses (--method unimodal_losses): the plain remedy, and the one to beat.")
    groups = [name for name, gaps in diagnosis.gaps.items() if gaps.check and gaps.check.two_groups]
    if groups:
        found.append(
            f"The gaps of {' and '.join(groups)} look like two groups: --method gmm_scores or gmm_adaptive treats them "
            "apart, purify.epochs ends with the balanced clips alone. Compare with mixture.posterior=shuffled, which "
            "tells whether the groups helped, or only the rest of the method."
        )
    if any(gaps.check is None or not gaps.check.two_groups for gaps in diagnosis.gaps.values()):
        found.append("Where no second group is shown, balanced.csv is a cut through one group: expect little from it.")
    doubts = bool(_listening(diagnosis) or _confidence(diagnosis) or (diagnosis.fusion_gain.mean <= 0 and leader))
    advised = diagnosis.advised_correction
    if advised:
        found.append(
            f"Use the correction {advised.correction.name}, which needs no training: "
            f"{command('predict', '--correction')}. On validation, cross-fitted, it "
            f"adds {_points(advised.validation_gain, signed=True)} of accuracy."
        )
    elif not diagnosis.corrections and doubts:
        found.append("See what correcting the decision layer is worth, without training: --correct.")
    found.append(
        "Look at the clips that the page shows: spoiled pictures, silent sounds and wrong labels are cheap to mend."
    )
    return found


def _small(diagnosis: Diagnosis) -> list[Sentence]:
    count = len(diagnosis.clips)
    text = f"Only {count} clips of {diagnosis.judged_on}: the intervals are wide, take no small difference for one."
    return [Sentence(text, "doubt")] if count < FEW_CLIPS else []


def _leader(diagnosis: Diagnosis) -> str | None:
    """The modality that alone is clearly better."""
    lead = diagnosis.lead
    return (MODALITIES[0] if lead.mean > 0 else MODALITIES[1]) if lead.clear else None


def _weaker(diagnosis: Diagnosis) -> str:
    return min(MODALITIES, key=lambda name: diagnosis.right[name].mean())


def _who_leads(diagnosis: Diagnosis) -> Sentence:
    leader, lead = _leader(diagnosis), diagnosis.lead
    alone = {name: f"{100 * diagnosis.right[name].mean():.1f} %" for name in MODALITIES}
    difference = f"{_points(Estimate(abs(lead.mean), lead.half_width))} apart"
    clips = f"the clips of {diagnosis.judged_on}" if diagnosis.judged_on != "all" else "the clips"
    if leader is None:
        numbers = f"audio is right on {alone['audio']} of {clips}, visual on {alone['visual']}; {difference}"
        return Sentence(f"Neither modality clearly leads: alone, {numbers}.", "good")
    other = _weaker(diagnosis)
    numbers = f"alone it is right on {alone[leader]} of {clips}, {other} on {alone[other]}; {difference}"
    return Sentence(f"{leader.capitalize()} leads: {numbers}.", "doubt")


def _knows_nothing(diagnosis: Diagnosis, modality: str) -> bool:
    above = Estimate.of(diagnosis.right[modality].astype(float) - diagnosis.constant)
    return not (above.clear and above.mean > 0)


def _at_chance(diagnosis: Diagnosis) -> list[Sentence]:
    frequent = f"always answering the most frequent class ({100 * diagnosis.constant.mean():.1f} %)"
    return [
        Sentence(f"{name.capitalize()} alone is not clearly better than {frequent}.", "bad")
        for name in MODALITIES
        if _knows_nothing(diagnosis, name)
    ]


def _fusion(diagnosis: Diagnosis) -> Sentence:
    gain = diagnosis.fusion_gain
    together = f"together they are right on {100 * diagnosis.right['fused'].mean():.1f} %"
    against = f"{_points(gain, signed=True)} against the better one alone"
    if not gain.clear:
        return Sentence(f"Fusion is not clearly worth it: {together}, {against}.", "doubt")
    if gain.mean > 0:
        return Sentence(f"Fusion pays: {together}, {against}.", "good")
    return Sentence(f"Fusion hurts: {together}, {against}.", "bad")


def _contributions(diagnosis: Diagnosis) -> Sentence:
    found = diagnosis.shapley["read-outs"]
    whole = found.coalitions["both"] - found.coalitions["none"]
    return Sentence(
        f"Of the {100 * whole:+.1f} points above always answering the most frequent class, audio contributes "
        f"{100 * found.audio:+.1f} and visual {100 * found.visual:+.1f} (Shapley values)."
    )


def _groups(name: str, gaps: Gaps) -> Sentence:
    of_split = "" if name == "all" else f" of {name}"
    return Sentence(f"Gaps{of_split}: {gaps.sentence}", "doubt" if gaps.check and gaps.check.two_groups else "plain")


def _listening(diagnosis: Diagnosis) -> list[Sentence]:
    """Where the fused logits follow a modality more than it deserves."""
    shapley, shares = diagnosis.shapley["read-outs"], diagnosis.shares
    if shares is None or min(shapley.audio, shapley.visual) <= 0:
        return []
    earned = shapley.audio / (shapley.audio + shapley.visual)
    made = {"audio": (shares.audio, earned), "visual": (shares.visual, 1 - earned)}
    return [
        Sentence(
            f"The fused logits follow {name} more than it earns: {100 * share:.0f} % of their variance, against "
            f"{100 * deserved:.0f} % of the accuracy gained.",
            "doubt",
        )
        for name, (share, deserved) in made.items()
        if share > deserved + LISTENS_TOO_MUCH
    ]


def _confidence(diagnosis: Diagnosis) -> list[Sentence]:
    found = []
    for name, values in diagnosis.calibration.items():
        excess = values.confidence - values.accuracy
        if abs(excess) > MISCALIBRATED:
            how = "too sure" if excess > 0 else "too unsure"
            found.append(
                Sentence(
                    f"{name.capitalize()} is {how} of itself: mean confidence {100 * values.confidence:.1f} %, "
                    f"accuracy {100 * values.accuracy:.1f} % (ECE {100 * values.ece:.1f} points).",
                    "doubt",
                )
            )
    return found


def _corrections(diagnosis: Diagnosis) -> list[Sentence]:
    if not diagnosis.corrections:
        return []
    best = diagnosis.advised_correction or diagnosis.best_correction
    if best is None:
        return [Sentence(f"No correction of the decision layer clearly helps ({judged(diagnosis)}).")]
    drop = best.log_loss_drop
    found = (
        f"The correction {best.correction.name} {'lowers' if drop.mean > 0 else 'raises'} the log loss by "
        f"{abs(drop.mean):.3f} ± {drop.half_width:.3f} and changes accuracy by "
        f"{_points(best.accuracy_gain, signed=True)} ({judged(diagnosis)}; the best of {len(diagnosis.corrections)}, "
        "which flatters it a little)."
    )
    if best.advised:
        return [Sentence(found, "good")]
    return [Sentence(f"{found} More right answers are not shown: its use is in surer probabilities, if any.")]


def _points(estimate: Estimate, signed: bool = False) -> str:
    return f"{100 * estimate.mean:{'+' if signed else ''}.1f} ± {100 * estimate.half_width:.1f} points"
