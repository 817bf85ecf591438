"""Figures of a training run, from the tables in its folder: the gap's distribution and the learning curves."""

from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from raygap.imbalance.gap import mixture_values
from raygap.imbalance.mixture import DegenerateMixture, fit_gap_mixture
from raygap.imbalance.null_check import check_two_groups

matplotlib.use("Agg")

BALANCED, IMBALANCED, FUSED = "#2a78d6", "#d95f2b", "#444444"
SCORE_NAMES = {"absolute": "|audio score − visual score|", "signed": "audio score − visual score"}
SCORE_NAMES["min_score"] = "1 − smaller score"


def gap_values(run: Path, score: str) -> dict[str, np.ndarray]:
    """What the mixture is fitted to, of the clips that were seen, by moment: "after warm-up" (if any), "at the end"."""
    ledger = pq.read_table(run / "ledger.parquet")
    moments = {"after warm-up": ("audio_after_warmup", "visual_after_warmup"), "at the end": ("audio", "visual")}
    values = {
        moment: mixture_values(ledger[audio].to_numpy(), ledger[visual].to_numpy(), score)
        for moment, (audio, visual) in moments.items()
        if audio in ledger.column_names
    }
    return {moment: of_clips[~np.isnan(of_clips)] for moment, of_clips in values.items()}


def draw_gap(moments: dict[str, np.ndarray], score: str, seed: int, file: Path) -> None:
    """Histogram of the training clips' gaps at each moment (see gap_values), with the fitted components over it."""
    figure = Figure(figsize=(5 * len(moments), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(moments), sharex=True))
    for panel, (moment, values) in zip(panels, moments.items(), strict=True):
        _histogram(panel, values, seed)
        panel.set(title=moment, xlabel=SCORE_NAMES[score], ylabel="clips")
    _save(figure, file)


def verdicts(moments: dict[str, np.ndarray], score: str, seed: int) -> list[str]:
    """A sentence a moment: do the gaps look like two groups, against the null of one group of bounded gaps?"""
    lines = []
    for moment, values in moments.items():
        try:
            verdict = check_two_groups(values, score, n_init=4, seed=seed).verdict
        except DegenerateMixture as reason:
            verdict = f"no mixture: {reason}."
        lines.append(f"Gaps {moment}: {verdict}")
    return lines


def _histogram(panel: Axes, values: np.ndarray, seed: int) -> None:
    edges = np.linspace(min(values.min(), 0), 1, 41)
    panel.hist(values, edges, color="#cfcfcf")
    try:
        mixture = fit_gap_mixture(values, n_init=4, seed=seed)
    except DegenerateMixture as reason:
        panel.text(0.5, 0.9, f"no mixture: {reason}", transform=panel.transAxes, ha="center", wrap=True)
        return
    x = np.linspace(edges[0], 1, 400)
    clips_per_unit = len(values) * (edges[1] - edges[0])
    for k, (name, color) in enumerate([("balanced", BALANCED), ("imbalanced", IMBALANCED)]):
        density = mixture.weights[k] * stats.norm.pdf(x, mixture.means[k], mixture.variances[k] ** 0.5)
        panel.plot(x, density * clips_per_unit, color=color, label=f"{name} ({mixture.weights[k]:.0%})")
    panel.legend(frameon=False)
    # A narrow component's peak may stand far above the bars.
    highest = np.histogram(values, edges)[0].max()
    panel.set_ylim(0, 1.15 * highest)


def draw_curves(run: Path, file: Path) -> None:
    """Validation accuracy by epoch, fused and by modality, with the stages marked; below it the mean gap."""
    metrics = pq.read_table(run / "metrics.parquet").to_pydict()
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    lines = [("fused", "val_accuracy", FUSED), ("audio", "val_audio_accuracy", IMBALANCED)]
    for name, column, color in [*lines, ("visual", "val_visual_accuracy", BALANCED)]:
        upper.plot(metrics["epoch"], metrics[column], color=color, label=name)
    lower.plot(metrics["epoch"], metrics["gap_absolute_mean"], color=FUSED)
    for before, epoch, stage in zip(metrics["stage"], metrics["epoch"][1:], metrics["stage"][1:], strict=False):
        if stage != before:
            for panel in (upper, lower):
                panel.axvline(epoch - 0.5, color="#aaaaaa", linewidth=1, linestyle=":")
            upper.annotate(f" {stage}", (epoch - 0.5, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    upper.set(ylabel="validation accuracy", ylim=(0, 1))
    upper.legend(frameon=False, loc="upper left")
    lower.set(xlabel="epoch", ylabel="mean |gap|", ylim=(0, None))
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
