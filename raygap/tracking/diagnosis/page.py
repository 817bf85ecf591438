"""What a diagnosis leaves in its folder: the page, the numbers, all clips, and the balanced subset."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from raygap.data.inspection import thumbnails
from raygap.data.predictions import MODALITIES, READOUTS
from raygap.data.store import Store
from raygap.imbalance.calibration import BINS
from raygap.tracking.diagnosis import plots
from raygap.tracking.diagnosis.findings import KEPT, Diagnosis, Gaps, judged, numbers
from raygap.tracking.diagnosis.verdict import advice, verdict
from raygap.tracking.report.blocks import Blocks, Note, Row, Table, Tile, Tiles, chart, sorry
from raygap.tracking.report.page import Section, render
from raygap.tracking.report.plots import gap_histogram
from raygap.tracking.report.sections import LONGEST_SIDE, spoiled
from raygap.tracking.run_folder import SPOILED, write_csv, write_text

PAGE, NUMBERS, BALANCED, CLIPS = "diagnosis.html", "diagnosis.json", "balanced.csv", "clips.csv"
MISSING = {
    "read-outs": "a modality alone answers by its unimodal read-out; without both, the most frequent class is answered",
    "mean features": "the features of a missing modality are replaced by their mean over the training clips, and the "
    "fusion answers; without both it always answers the same",
}
"""What a coalition without a modality means, for each kind of Shapley values."""


def write_diagnosis(diagnosis: Diagnosis, folder: Path, store: Store | None = None) -> None:
    """Write diagnosis.html, diagnosis.json, clips.csv, balanced.csv and spoiled.csv into a folder that is there.

    `store` has the pictures of the clips.
    """
    content = numbers(diagnosis) | {
        "verdict": [sentence.text for sentence in verdict(diagnosis)],
        "advice": advice(diagnosis),
    }
    write_text(folder / NUMBERS, json.dumps(content, indent=1) + "\n")
    _write_clips(diagnosis, folder)
    if diagnosis.suspects:
        split = next(iter(diagnosis.gaps))
        diagnosis.suspects.write(folder / SPOILED, "" if split == "all" else split)
    parts: list[tuple[str, str, str, Callable[[], Blocks]]] = [
        ("verdict", "Verdict", "Verdict", partial(_verdict, diagnosis)),
        ("gap", "Gap", "Modality gap", partial(_gap, diagnosis)),
        ("classes", "Classes", "By class", partial(_classes, diagnosis)),
        ("clips", "Clips", "Clips to look at", partial(_clips, diagnosis, store)),
        ("shapley", "Shapley", "What each modality contributes to the accuracy", partial(_shapley, diagnosis)),
        ("decision", "Decision layer", "Decision layer: who makes the fused logits", partial(_decision, diagnosis)),
        ("calibration", "Calibration", "Calibration", partial(_calibration, diagnosis)),
        ("corrections", "Corrections", "Corrections of the decision layer", partial(_corrections, diagnosis)),
        ("training", "Training", "Discrepancy over training", partial(_training, diagnosis)),
        ("measured", "Measured", "What was measured", partial(_measured, diagnosis)),
    ]
    sections = [Section(name, short, title, _blocks(build)) for name, short, title, build in parts]
    about = [diagnosis.method, _of_clips(diagnosis), datetime.now().strftime("written %Y-%m-%d %H:%M")]
    page = render("raygap diagnosis", diagnosis.source, " · ".join(filter(None, about)), sections)
    write_text(folder / PAGE, page)


def _write_clips(diagnosis: Diagnosis, folder: Path) -> None:
    header = ["id", "split", "label", "answer", "audio_score", "visual_score", "gap", "balanced"]
    rows, kept = [], []
    for split, gaps in diagnosis.gaps.items():
        clips = gaps.predictions
        answers = clips.logits["fused"].argmax(axis=1)
        subset = set(gaps.kept.tolist())
        for i, name in enumerate(clips.ids.tolist()):
            values = (gaps.scores["audio"][i], gaps.scores["visual"][i], gaps.gap[i], gaps.balanced[i])
            known = ["" if np.isnan(value) else f"{value:.6f}" for value in values]
            classes = [clips.class_names[clips.labels[i]], clips.class_names[answers[i]]]
            rows.append([name, "" if split == "all" else split, *classes, *known])
            kept += [rows[-1]] if i in subset else []
    write_csv(folder / CLIPS, header, rows)
    write_csv(folder / BALANCED, header, kept)


def _blocks(build: Callable[[], Blocks]) -> Blocks:
    try:
        return build()
    except Exception as error:  # one part is not worth the page
        return [sorry(error)]


def _of_clips(diagnosis: Diagnosis) -> str:
    count = len(diagnosis.clips)
    return f"{count} clips" if diagnosis.judged_on == "all" else f"{count} clips of {diagnosis.judged_on}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _verdict(diagnosis: Diagnosis) -> Blocks:
    shapley = diagnosis.shapley["read-outs"]
    about = {"fused": "both modalities together"} | {
        name: f"alone; contributes {100 * getattr(shapley, name):+.1f} points" for name in MODALITIES
    }
    tiles = [Tile(name.capitalize(), _percent(diagnosis.right[name].mean()), about[name]) for name in READOUTS]
    gaps = diagnosis.gaps[diagnosis.judged_on]
    tiles.append(Tile("Mean |gap|", f"{np.abs(gaps.gap).mean():.2f}", f"mean gap {gaps.gap.mean():+.2f}"))
    found: Blocks = [Tiles(tiles), *(Note(sentence.text, sentence.tone) for sentence in verdict(diagnosis))]
    return [*found, Note("What to try:"), *(Note(f"→ {text}") for text in advice(diagnosis))]


def _gap(diagnosis: Diagnosis) -> Blocks:
    columns = []
    for name, gaps in diagnosis.gaps.items():
        title = f"{len(gaps.gap)} clips" + ("" if name == "all" else f" of {name}")
        tone = "doubt" if gaps.check and gaps.check.two_groups else "plain"
        columns.append(
            [
                Note(title),
                chart(partial(gap_histogram, gaps.histogram, diagnosis.score)),
                Note(gaps.sentence, tone),
                chart(
                    partial(
                        plots.scores,
                        gaps.scores["audio"],
                        gaps.scores["visual"],
                        gaps.balanced,
                        gaps.predictions.ids,
                    ),
                    "A dot a clip. Score: the probability that the modality alone gives the true class.",
                ),
                Note(_subset(gaps)),
            ]
        )
    trained = "train" in diagnosis.gaps and diagnosis.method
    learnt = "Training clips have been learnt in part: the gaps of fresh clips may look different."
    return [Row(columns), *([Note(learnt)] if trained else [])]


def _subset(gaps: Gaps) -> str:
    if np.isnan(gaps.balanced).all():
        return f"{BALANCED} holds none of these clips: without a mixture there are no posteriors."
    return f"{len(gaps.kept)} clips have P(balanced) of {KEPT:g} or more and are listed in {BALANCED}."


def _classes(diagnosis: Diagnosis) -> Blocks:
    clips, gaps = diagnosis.clips, diagnosis.gaps[diagnosis.judged_on]
    rows = []
    for label, name in enumerate(clips.class_names):
        own = clips.labels == label
        if own.any():
            balanced = gaps.balanced[own]
            share = None if np.isnan(balanced).any() else f"{(balanced < KEPT).mean():.2f}"
            accuracies = [f"{diagnosis.right[read_out][own].mean():.2f}" for read_out in READOUTS]
            means = [f"{gaps.gap[own].mean():+.2f}", f"{np.abs(gaps.gap[own]).mean():.2f}"]
            rows.append([name, int(own.sum()), *accuracies, *means, share])
    header = ["class", "clips", *READOUTS, "mean gap", "mean |gap|", "share imbalanced"]
    caption = f"Accuracy by read-out, and the mean gap, of {_of_clips(diagnosis)}; the widest mean gap first."
    return [chart(lambda: plots.by_class(diagnosis), caption), Table([header, *rows], sortable=True)]


def _clips(diagnosis: Diagnosis, store: Store | None) -> Blocks:
    """Of the training clips, where known: theirs are the ones that can be mended."""
    if not diagnosis.suspects:
        return [Note("Which clips are spoiled cannot be told; the reason is below.")]
    places = {name: row for row, name in enumerate(store.clip_ids)} if store else {}
    blocks = spoiled(diagnosis.suspects, lambda name: thumbnails(store, places[name], LONGEST_SIDE))
    return [*blocks, Note(f"{SPOILED} lists them all, for --exclude to leave out; {CLIPS} has every clip.")]


def _shapley(diagnosis: Diagnosis) -> Blocks:
    header = ["missing modality", "v(none)", "v(audio)", "v(visual)", "v(both)", "audio", "visual"]
    rows = [
        [
            name,
            *(_percent(found.coalitions[coalition]) for coalition in ("none", "audio", "visual", "both")),
            *(
                f"{100 * getattr(found, m):+.1f} ± {100 * plots.NORMAL_95 * getattr(found, f'{m}_error'):.1f}"
                for m in MODALITIES
            ),
        ]
        for name, found in diagnosis.shapley.items()
    ]
    formula = (
        "v is the accuracy of a coalition of modalities, and audio's value is half of v(audio) − v(none) plus half of "
        "v(both) − v(visual): its gain over all orders of joining. Both values add up to v(both) − v(none); their "
        "difference does not depend on v(none). In points of accuracy, with 95 % intervals over the clips."
    )
    meanings = [Note(f"{name}: {MISSING[name]}.") for name in diagnosis.shapley]
    return [chart(lambda: plots.shapley(diagnosis.shapley)), Table([header, *rows]), Note(formula), *meanings]


def _decision(diagnosis: Diagnosis) -> Blocks:
    rows = []
    for title, values in (
        ("features, mean length", diagnosis.feature_norms),
        ("head weights, mean length a class", diagnosis.weight_norms),
    ):
        if values:
            rows.append([title, *(float(values[m].mean()) if m in values else None for m in MODALITIES)])
    shares = diagnosis.shares
    found: Blocks = []
    if shares:
        rows.insert(0, ["share of the fused logits' variance", *(_percent(getattr(shares, m)) for m in MODALITIES)])
    if rows:
        found.append(Table([["", *MODALITIES], *rows]))
    if not shares:
        text = "The fused logits are not known to be a sum of a part a modality: their shares cannot be told."
        return [*found, Note(text)]
    caption = (
        "By class. Above, the covariance of a modality's part with the fused logit over that logit's variance, so that "
        "both add up to 1. Below, how far its part lifts the true class above the mean of all, in logits."
    )
    return [*found, chart(lambda: plots.shares_by_class(shares, diagnosis.clips.class_names), caption)]


def _calibration(diagnosis: Diagnosis) -> Blocks:
    header = ["read-out", "accuracy", "mean confidence", "ECE", "log loss"]
    rows = [
        [name, _percent(found.accuracy), _percent(found.confidence), f"{found.ece:.3f}", f"{found.log_loss:.3f}"]
        for name, found in diagnosis.calibration.items()
    ]
    columns = [[chart(partial(plots.reliability, name, diagnosis.calibration[name]))] for name in diagnosis.calibration]
    about = (
        f"Confidence is the largest probability. ECE: the clips are put into {BINS} equal bins of confidence, and "
        "|confidence − accuracy| is averaged over the bins, weighted by their clips. On the dotted line confidence is "
        "accuracy; below it the read-out is too sure. Bars: share of the clips in each bin."
    )
    return [Table([header, *rows]), Row(columns), Note(about)]


def _corrections(diagnosis: Diagnosis) -> Blocks:
    if not diagnosis.corrections:
        text = "None was fitted. diagnose --correct fits temperatures, weights and gates, and says what they are worth."
        return [Note(text)]
    header = ["correction", "accuracy gain, points", "log loss", "drop of log loss", "ECE", "what it does"]
    rows = [
        [
            found.correction.name,
            f"{100 * found.accuracy_gain.mean:+.1f} ± {100 * found.accuracy_gain.half_width:.1f}",
            f"{found.result.log_loss:.3f}",
            f"{found.log_loss_drop.mean:+.3f} ± {found.log_loss_drop.half_width:.3f}",
            f"{found.result.ece:.3f}",
            found.correction.about,
        ]
        for found in diagnosis.corrections
    ]
    test = diagnosis.judged_on == "test"
    where = f"Measured on {judged(diagnosis)}; intervals of 95 %, paired by clip, against the uncorrected answer."
    again = (
        "TEST was read: whatever is chosen by these numbers has no test left."
        if test
        else ("Cross-fitted: each clip is answered by a correction that was fitted to the other folds.")
    )
    return [Note(where), Table([header, *rows]), Note(again, "doubt" if test else "plain")]


def _training(diagnosis: Diagnosis) -> Blocks:
    if not diagnosis.discrepancy:
        return [Note("Not known: no metrics.parquet lies beside the network.")]
    caption = (
        "S_m(t) is the mean over the epochs so far of modality m's mean training score; the difference follows from "
        "the mean gaps. Above 0 audio has led."
    )
    return [chart(lambda: plots.discrepancy(diagnosis.discrepancy), caption)]


def _measured(diagnosis: Diagnosis) -> Blocks:
    lines = [
        f"Accuracies, Shapley values, shares and calibration are of {_of_clips(diagnosis)}.",
        "Gaps are of "
        + " and of ".join(f"{len(gaps.gap)} clips ({name})" for name, gaps in diagnosis.gaps.items())
        + ", without augmentation.",
        *diagnosis.notes,
    ]
    if diagnosis.judged_on == "train":
        lines.insert(1, "These are training clips: accuracies and calibration flatter the network.")
    if diagnosis.judged_on == "test":
        lines.insert(1, "These are TEST clips: choose nothing by them.")
    return [Note(line) for line in lines]
