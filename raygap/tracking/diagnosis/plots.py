"""The interactive figures of a diagnosis."""

import numpy as np
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from raygap.data.predictions import MODALITIES
from raygap.imbalance.calibration import BINS, Calibration
from raygap.imbalance.decision_layer import LogitShares
from raygap.imbalance.estimate import NORMAL_95
from raygap.imbalance.shapley import Shapley
from raygap.tracking.diagnosis.findings import Diagnosis
from raygap.tracking.report.plots import AUDIO, BARS, QUIET, VISUAL, finish, rounded
from raygap.tracking.report.plots import MODALITIES as COLOURS

MOST_CLASSES = 40
"""Classes that a figure shows; more would be lines without a name."""
MOST_CLIPS = 3000
"""Dots of a figure; more would make the page slow."""


def shapley(found: dict[str, Shapley]) -> Figure:
    """Shapley values with their 95 % intervals, a group for each meaning of a missing modality."""
    figure = Figure()
    for name in MODALITIES:
        figure.add_bar(
            name=name,
            x=list(found),
            y=[rounded(getattr(values, name)) for values in found.values()],
            error_y={"array": [NORMAL_95 * getattr(values, f"{name}_error") for values in found.values()]},
            marker={"color": COLOURS[name]},
            hovertemplate=f"{name}, %{{x}}: %{{y:+.3f}}<extra></extra>",
        )
    figure.update_layout(yaxis_title="accuracy contributed", barmode="group", bargap=0.2 if len(found) > 1 else 0.7)
    return finish(figure, 300)


def by_class(diagnosis: Diagnosis) -> Figure:
    """Accuracy of the read-outs and mean gap by class, widest mean gap first."""
    clips = diagnosis.clips
    gaps = diagnosis.gaps[diagnosis.judged_on].gap
    found = [label for label in range(len(clips.class_names)) if (clips.labels == label).any()]
    order = sorted(found, key=lambda label: -abs(gaps[clips.labels == label].mean()))[:MOST_CLASSES]
    names = [clips.class_names[label] for label in order]
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    for read_out, colour in COLOURS.items():
        figure.add_scatter(
            x=names,
            y=[rounded(diagnosis.right[read_out][clips.labels == label].mean()) for label in order],
            mode="markers",
            marker={"color": colour, "size": 10},
            name=read_out,
            hovertemplate=f"%{{x}}, {read_out}: %{{y:.3f}}<extra></extra>",
        )
    means = [rounded(gaps[clips.labels == label].mean()) for label in order]
    figure.add_bar(
        x=names,
        y=means,
        marker={"color": [AUDIO if mean > 0 else VISUAL for mean in means]},
        showlegend=False,
        hovertemplate="%{x}, mean gap: %{y:+.3f}<extra></extra>",
        row=2,
        col=1,
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(title_text="accuracy", row=1, range=[-0.04, 1.04])
    figure.update_yaxes(title_text="mean gap", row=2)
    return finish(figure, 460)


def scores(audio: np.ndarray, visual: np.ndarray, balanced: np.ndarray, ids: np.ndarray) -> Figure:
    """Both scores of each clip, coloured by P(balanced); of many clips, some evenly spread over them."""
    shown = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), MOST_CLIPS)).round().astype(int))
    audio, visual, balanced, ids = audio[shown], visual[shown], balanced[shown], ids[shown]
    known = not np.isnan(balanced).any()
    colour = balanced.round(3).tolist() if known else QUIET
    bar = {"title": "P(balanced)", "thickness": 12}
    figure = Figure()
    figure.add_scatter(
        x=audio.round(4).tolist(),
        y=visual.round(4).tolist(),
        text=ids.tolist(),
        mode="markers",
        marker={"color": colour, "size": 6, "opacity": 0.7, "colorscale": [AUDIO, VISUAL], "showscale": known}
        | ({"colorbar": bar, "cmin": 0, "cmax": 1} if known else {}),
        hovertemplate="%{text}<br>audio %{x:.2f}, visual %{y:.2f}<extra></extra>",
    )
    figure.update_layout(xaxis_title="audio score", yaxis_title="visual score", showlegend=False)
    figure.update_xaxes(range=[-0.03, 1.03])
    figure.update_yaxes(range=[-0.03, 1.03])
    return finish(figure, 340)


def shares_by_class(shares: LogitShares, names: tuple[str, ...]) -> Figure:
    """Above, each modality's share of the fused logit's variance; below, how far it lifts the true class."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, values in enumerate((shares.by_class, shares.true_class), start=1):
        for name in MODALITIES:
            figure.add_bar(
                x=list(names[:MOST_CLASSES]),
                y=[rounded(value) if np.isfinite(value) else None for value in values[name][:MOST_CLASSES].tolist()],
                name=name,
                marker={"color": COLOURS[name]},
                showlegend=row == 1,
                hovertemplate=f"%{{x}}, {name}: %{{y:.3f}}<extra></extra>",
                row=row,
                col=1,
            )
    figure.update_layout(barmode="group")
    figure.update_xaxes(type="category")
    figure.update_yaxes(title_text="share of variance", row=1)
    figure.update_yaxes(title_text="lift of the true class", row=2)
    return finish(figure, 460)


def reliability(name: str, values: Calibration) -> Figure:
    """Accuracy by confidence of a read-out; the bars behind are the clips of each bin."""
    centres = [rounded(centre) for centre in (np.arange(BINS) + 0.5) / BINS]
    held = values.bin_clips > 0
    figure = Figure()
    figure.add_bar(
        x=centres,
        y=[rounded(share) for share in values.bin_clips / values.bin_clips.sum()],
        marker={"color": BARS},
        hovertemplate="%{x:.2f}: %{y:.0%} of the clips<extra></extra>",
    )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"color": QUIET, "dash": "dot"}, hoverinfo="skip")
    figure.add_scatter(
        x=[rounded(value) for value in values.bin_confidence[held]],
        y=[rounded(value) for value in values.bin_accuracy[held]],
        mode="lines+markers",
        line={"color": COLOURS[name], "width": 2},
        hovertemplate="confidence %{x:.2f}: accuracy %{y:.2f}<extra></extra>",
    )
    figure.update_layout(xaxis_title="confidence", yaxis_title=f"accuracy, {name}", showlegend=False, bargap=0)
    figure.update_xaxes(range=[0, 1.02])
    figure.update_yaxes(range=[0, 1.02])
    return finish(figure, 280)


def discrepancy(found: dict[str, np.ndarray]) -> Figure:
    """Cumulative scores and their difference by epoch, as far as they are known."""
    figure = Figure()
    lines = {"S audio": ("audio", AUDIO), "S visual": ("visual", VISUAL), "S audio − S visual": ("difference", QUIET)}
    for title, (name, colour) in lines.items():
        if name in found:
            figure.add_scatter(
                x=found["epoch"].tolist(),
                y=[rounded(value) for value in found[name]],
                mode="lines+markers",
                line={"color": colour, "width": 2},
                name=title,
                hovertemplate=f"{title} %{{y:.3f}}<extra></extra>",
            )
    figure.add_hline(y=0, line={"color": QUIET, "width": 1})
    figure.update_layout(xaxis_title="epoch", yaxis_title="cumulative score", hovermode="x unified", showlegend=True)
    return finish(figure, 300)
