"""Figures of a training run, from the tables in its folder: the gap's distribution and the learning curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import scipy

from raygap.extras import need
from raygap.imbalance.gap import GapScore, mixture_values
from raygap.imbalance.mixture import DegenerateMixture, GapMixture, fit_gap_mixture
from raygap.imbalance.null_check import check_two_groups

if TYPE_CHECKING:  # not installed everywhere: an extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BALANCED, IMBALANCED, FUSED = "#2a78d6", "#d95f2b", "#444444"
SCORE_NAMES = {"absolute": "|audio score − visual score|", "signed": "audio score − visual score"}
SCORE_NAMES["min_score"] = "1 − smaller score"


def gap_values(run: Path, score: GapScore) -> dict[str, np.ndarray]:
    """What the mixture is fitted to, of the clips that were seen, by moment: "after warm-up" (if any), "at the end"."""
    ledger = pq.read_table(run / "ledger.parquet")
    moments = {"after warm-up": ("audio_after_warmup", "visual_after_warmup"), "at the end": ("audio", "visual")}
    values = {
        moment: mixture_values(ledger[audio].to_numpy(), ledger[visual].to_numpy(), score)
        for moment, (audio, visual) in moments.items()
        if audio in ledger.column_names
    }
    return {moment: of_clips[~np.isnan(of_clips)] for moment, of_clips in values.items()}


@dataclass(frozen=True)
class GapHistogram:
    """`counts` (bins,) of gaps between `edges` (bins + 1,), and the mixture over them, or the `reason` for none."""

    edges: np.ndarray
    counts: np.ndarray
    mixture: GapMixture | None
    reason: str = ""

    @classmethod
    def of(cls, values: np.ndarray, seed: int, bins: int = 40) -> "GapHistogram":
        """Of values (N,) as gap_values returns them; fits the mixture."""
        counts, edges = np.histogram(values, np.linspace(min(values.min(), 0), 1, bins + 1))
        try:
            return cls(edges, counts, fit_gap_mixture(values, n_init=4, seed=seed))
        except DegenerateMixture as reason:
            return cls(edges, counts, None, str(reason))

    def components(self) -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
        """Share of the clips, x and height on the scale of the bars, of the component of each name."""
        if self.mixture is None:
            return {}
        x = np.linspace(self.edges[0], self.edges[-1], 200)
        clips_per_unit = self.counts.sum() * (self.edges[1] - self.edges[0])
        parts = zip(("balanced", "imbalanced"), self.mixture.weights, strict=True)
        return {
            name: (share, x, share * clips_per_unit * scipy.stats.norm.pdf(x, mean, variance**0.5))
            for (name, share), mean, variance in zip(parts, self.mixture.means, self.mixture.variances, strict=True)
        }


@dataclass(frozen=True)
class GapCheck:
    """Whether gaps look like two groups (None: no mixture could be fitted), and the sentence that says so."""

    two_groups: bool | None
    sentence: str


def check_gaps(moments: dict[str, np.ndarray], score: GapScore, seed: int) -> dict[str, GapCheck]:
    """By moment (see gap_values): do the gaps look like two groups, against the null of one group of bounded gaps?"""
    checks = {}
    for moment, values in moments.items():
        try:
            check = check_two_groups(values, score, n_init=4, seed=seed)
            checks[moment] = GapCheck(check.two_groups, check.verdict)
        except DegenerateMixture as reason:
            checks[moment] = GapCheck(None, f"No mixture: {reason}.")
    return checks


def draw_figures(run: Path, score: GapScore, seed: int, folder: Path) -> None:
    """gap.png and curves.png of a training run, into a folder. Raises UserError where what draws is not installed."""
    need("report", "a figure")
    draw_gap(gap_values(run, score), score, seed, folder / "gap.png")
    draw_curves(run, folder / "curves.png")


def draw_gap(moments: dict[str, np.ndarray], score: str, seed: int, file: Path) -> None:
    """Histogram of the training clips' gaps at each moment (see gap_values), with the fitted components over it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(moments), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(moments), sharex=True))
    for panel, (moment, values) in zip(panels, moments.items(), strict=True):
        _draw_histogram(panel, GapHistogram.of(values, seed))
        panel.set(title=moment, xlabel=SCORE_NAMES[score], ylabel="clips")
    _save(figure, file)


def _draw_histogram(panel: "Axes", histogram: GapHistogram) -> None:
    panel.stairs(histogram.counts, histogram.edges, fill=True, color="#cfcfcf")
    if histogram.mixture is None:
        panel.text(0.5, 0.9, f"no mixture: {histogram.reason}", transform=panel.transAxes, ha="center", wrap=True)
        return
    for (name, (share, x, height)), color in zip(histogram.components().items(), (BALANCED, IMBALANCED), strict=True):
        panel.plot(x, height, color=color, label=f"{name} ({share:.0%})")
    panel.legend(frameon=False)
    # A narrow component's peak may stand far above the bars.
    panel.set_ylim(0, 1.15 * histogram.counts.max())


def draw_curves(run: Path, file: Path) -> None:
    """Validation accuracy by epoch, fused and by modality, with the stages marked; below it the mean gap."""
    from matplotlib.figure import Figure

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


def _save(figure: "Figure", file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
