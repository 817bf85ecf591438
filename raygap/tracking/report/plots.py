"""The page's interactive figures. They carry no template: the page lays its own over them, light or dark."""

import warnings
from html import escape
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import plot_parallel_coordinate, plot_param_importances, plot_slice
from plotly.colors import sample_colorscale
from plotly.graph_objects import Figure
from plotly.subplots import make_subplots

from raygap.tracking.figures import BALANCED, IMBALANCED, SCORE_NAMES, GapHistogram
from raygap.tracking.objectives import VALUES, Objective
from raygap.tracking.report.run import Absent
from raygap.tracking.run_folder import fields_of
from raygap.tracking.seed_results import Paired, SeedResults

# All of these can be told from white and from near black.
FUSED, AUDIO, VISUAL, BARS, QUIET = "#1c9a6c", IMBALANCED, BALANCED, "#8b96a544", "#8b96a5"
SCALE = ["#a9b6c6", "#3f8ae0", "#e0562b"]
"""From the worst to the best, or from the first to the last."""
MODALITIES = {"fused": FUSED, "audio": AUDIO, "visual": VISUAL}
MOST_STEPS = 60
"""Positions of a slider at most."""
ROW = 32
"""Pixels of a name in a figure that has a line for each."""
MANY = 60
"""Lines that can still be told apart."""


def history(trials: list[FrozenTrial], best: FrozenTrial, judged_on: str, lower: bool = False) -> Figure:
    """Value by trial, and the best so far, the lowest or highest; `judged_on` says what a value is."""
    figure = Figure()
    states = [
        (TrialState.PRUNED, "stopped early", QUIET, "circle-open"),
        (TrialState.COMPLETE, "complete", VISUAL, "circle"),
    ]
    for state, name, color, symbol in states:
        shown = [trial for trial in trials if trial.state == state and last_value(trial) is not None]
        figure.add_scatter(
            x=[trial.number for trial in shown],
            y=[rounded(last_value(trial)) for trial in shown],
            text=[describe(trial, judged_on) for trial in shown],
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 8},
            hovertemplate="%{text}<extra></extra>",
            name=name,
        )
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    so_far = np.minimum.accumulate if lower else np.maximum.accumulate
    figure.add_scatter(
        x=[trial.number for trial in complete],
        y=[rounded(value) for value in so_far([trial.value for trial in complete])],
        mode="lines",
        line={"color": FUSED, "shape": "hv", "width": 2},
        hoverinfo="skip",
        name="best so far",
    )
    figure.add_scatter(
        x=[best.number],
        y=[rounded(best.value)],
        text=[describe(best, judged_on)],
        mode="markers",
        marker={"color": FUSED, "symbol": "star", "size": 15},
        hovertemplate="%{text}<extra></extra>",
        name="best",
    )
    figure.update_layout(xaxis_title="trial", yaxis_title=judged_on)
    _tick_whole_numbers(figure, len(trials))
    return finish(figure, 340)


def pareto(trials: list[FrozenTrial], kept: list[FrozenTrial], objectives: tuple[Objective, ...]) -> Figure:
    """Complete trials by the first two objectives, with those of the front joined."""
    one, other = objectives[:2]
    figure = Figure()
    groups = [("complete", [trial for trial in trials if trial not in kept], VISUAL, "markers")]
    groups += [("Pareto front", kept, FUSED, "lines+markers" if len(objectives) == 2 else "markers")]
    for name, shown, color, mode in groups:
        figure.add_scatter(
            x=[rounded(trial.user_attrs[VALUES][one.name]) for trial in shown],
            y=[rounded(trial.user_attrs[VALUES][other.name]) for trial in shown],
            text=[f"trial {trial.number}" for trial in shown],
            mode=mode,
            marker={"color": color, "size": 9},
            line={"color": color, "width": 1.5},
            hovertemplate="%{text}: %{x:.3f}, %{y:.3f}<extra></extra>",
            name=name,
        )
    figure.update_layout(xaxis_title=f"validation {one.words}", yaxis_title=f"validation {other.words}")
    return finish(figure, 340)


def importances(study: optuna.Study, names: list[str]) -> Figure:
    """How much of the spread of good values each of the parameters explains, by Optuna's default evaluator."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = plot_param_importances(study, params=names)
    if any("select the same set" in str(warning.message) for warning in caught):
        raise Absent("Too few complete trials to say how much each field matters.")
    figure.update_traces(marker_color=VISUAL, hovertemplate="%{y}: %{x:.3f}<extra></extra>")
    figure.update_layout(title=None, xaxis_title="importance", yaxis_title=None, showlegend=False)
    figure.update_xaxes(range=[0, 1.15 * max(figure.data[0].x)])
    return finish(figure, 70 + 34 * len(figure.data[0].y))


def parallel(study: optuna.Study, names: list[str]) -> Figure:
    """A line a complete trial across the parameters, Optuna's, in colours that can be seen on either ground."""
    figure = plot_parallel_coordinate(study, names, target_name="accuracy")
    lines = sorted((trace for trace in figure.data if trace.mode == "lines"), key=lambda line: line.y[0])
    foremost = len(lines) - max(len(lines) // 20, 5)  # of many lines only the best can be followed
    for i, (line, color) in enumerate(zip(lines, sample_colorscale(SCALE, [y.y[0] for y in lines]), strict=True)):
        rows = [f"{escape(name)}: {escape(value)}" for name, value in line.customdata]
        line.update(hovertemplate="<br>".join(rows) + "<extra></extra>", customdata=None)
        line.update(y=[rounded(y) for y in line.y], line={"color": color, "width": 2 if i >= foremost else 1.2})
        line.update(opacity=0.9 if i >= foremost or len(lines) <= MANY else 0.3)
    figure.data = (*lines, *(trace for trace in figure.data if trace.mode != "lines"))
    figure.update_traces(marker_colorscale=SCALE, marker_showscale=False, selector={"mode": "markers"})
    figure.update_annotations(font_color=QUIET)
    figure.update_layout(title=None, plot_bgcolor=None, margin={"l": 40, "r": 60, "t": 16, "b": 56})
    figure.update_xaxes(fixedrange=True)
    return finish(figure, 420)


def slices(study: optuna.Study, best: FrozenTrial, names: list[str]) -> list[Figure]:
    """Value of complete trials by each of the parameters, a figure each; a star is the best."""
    figures = []
    for name in names:
        figure = plot_slice(study, params=[name])
        [dots] = figure.data
        numbers = list(dots.marker.color)
        dots.update(customdata=numbers, marker={"color": VISUAL, "size": 7, "opacity": 0.7, "showscale": False})
        star = numbers.index(best.number)
        figure.add_scatter(
            x=[dots.x[star]],
            y=[dots.y[star]],
            customdata=[best.number],
            mode="markers",
            marker={"color": FUSED, "symbol": "star", "size": 14},
        )
        figure.update_traces(hovertemplate="%{x}<br>%{y:.3f}<br>trial %{customdata}<extra></extra>")
        figure.update_layout(title=None, yaxis_title=None, showlegend=False)
        figures.append(finish(figure, 230))
    return figures


def trial_curves(trials: list[FrozenTrial], best: FrozenTrial | None, judged_on: str) -> Figure:
    """Value by epoch of every trial, by how it ended."""
    groups = [
        ("stopped early", QUIET, TrialState.PRUNED),
        ("failed", AUDIO, TrialState.FAIL),
        ("not ended", "#b07cd8", TrialState.RUNNING),
        ("complete", VISUAL, TrialState.COMPLETE),
    ]
    figure = Figure()
    for name, color, state in groups:
        own = [trial for trial in trials if trial.state == state and trial.intermediate_values and trial is not best]
        if own:
            look = {"line": {"color": color, "width": 1.3}, "opacity": 0.75 if len(trials) <= MANY else 0.4}
            figure.add_scatter(**_curves(own), **look, name=name)
        if own and state != TrialState.COMPLETE:
            ends = [(trial.last_step, rounded(trial.intermediate_values[trial.last_step])) for trial in own]
            figure.add_scatter(
                x=[epoch for epoch, _ in ends],
                y=[value for _, value in ends],
                mode="markers",
                marker={"color": color, "symbol": "x-thin-open" if state == TrialState.FAIL else "circle", "size": 6},
                hoverinfo="skip",
                showlegend=False,
            )
    if best is not None and best.intermediate_values:
        figure.add_scatter(**_curves([best]), line={"color": FUSED, "width": 3}, name=f"best (trial {best.number})")
    if not figure.data:
        raise Absent("No trial has ended an epoch yet.")
    figure.update_layout(xaxis_title="epoch", yaxis_title=judged_on)
    _tick_whole_numbers(figure, max((trial.last_step or 0 for trial in trials), default=0))
    return finish(figure, 400)


def _curves(trials: list[FrozenTrial]) -> dict[str, Any]:
    """One trace for all, with breaks between them: a thousand traces would be slow."""
    points: list[tuple[Any, Any, Any]] = []
    for trial in trials:
        points += [(epoch, rounded(value), trial.number) for epoch, value in sorted(trial.intermediate_values.items())]
        points.append((None, None, None))
    x, y, numbers = zip(*points[:-1], strict=True)
    hover = "trial %{customdata}<br>epoch %{x}: %{y:.3f}<extra></extra>"
    return {"x": x, "y": y, "customdata": numbers, "mode": "lines", "hovertemplate": hover}


def ahead(found: dict[str, Paired], axis: str = "ahead of it by, points") -> Figure:
    """How far one configuration is ahead of another, by name: a dot a seed, the mean with its interval; grey if that
    holds 0.
    """
    figure = Figure()
    for name, paired in found.items():
        mean, width = 100 * paired.interval.mean, 100 * paired.interval.half_width if paired.seeds > 1 else 0
        color = QUIET if not paired.clear else FUSED if mean > 0 else AUDIO
        figure.add_scatter(
            x=[rounded(100 * gain) for gain in paired.gains],
            y=[escape(name)] * paired.seeds,
            mode="markers",
            marker={"color": color, "size": 6, "opacity": 0.45},
            hovertemplate="%{x:+.2f}<extra></extra>",
        )
        figure.add_scatter(
            x=[rounded(mean)],
            y=[escape(name)],
            error_x={"array": [rounded(width)], "color": color, "thickness": 2, "width": 4},
            mode="markers",
            marker={"color": color, "symbol": "diamond", "size": 11},
            hovertemplate=f"%{{x:+.2f}} ± {width:.2f}, ahead on {paired.wins} of {paired.seeds} seeds<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": QUIET, "dash": "dot"})
    figure.update_layout(xaxis_title=axis)
    return rows(figure, list(found))


def rows(figure: Figure, names: list[str], legend: bool = False) -> Figure:
    """A figure whose names stand below each other, in this order."""
    order = {"categoryorder": "array", "categoryarray": [escape(name) for name in names]}
    figure.update_yaxes(**order, autorange="reversed", showgrid=False)
    figure.update_layout(showlegend=legend)
    return finish(figure, 110 + ROW * len(names))


def seeds(results: SeedResults) -> Figure:
    """Test accuracy of each seed, fused and by modality, with the mean and its interval."""
    figure = Figure()
    for name, color in MODALITIES.items():
        metric = "test_accuracy" if name == "fused" else f"test_{name}_accuracy"
        values = [row[metric] for row in results.rows.values()]
        figure.add_scatter(
            x=[rounded(value) for value in values],
            y=[name] * len(values),
            text=[str(seed) for seed in results.rows],
            mode="markers",
            marker={"color": color, "size": 10, "opacity": 0.45},
            hovertemplate="seed %{text}: %{x:.3f}<extra></extra>",
        )
        interval, several = results.interval(metric), len(values) > 1
        figure.add_scatter(
            x=[rounded(interval.mean)],
            y=[name],
            mode="markers",
            marker={"color": color, "size": 13, "symbol": "diamond"},
            error_x={"array": [interval.half_width if several else 0], "color": color, "thickness": 2},
            hovertemplate="mean %{x:.3f}" + (f" ± {interval.half_width:.3f}" if several else "") + "<extra></extra>",
        )
    figure.update_layout(xaxis_title="test accuracy", showlegend=False)
    figure.update_xaxes(autorangeoptions={"clipmin": 0, "clipmax": 1})  # an interval of two seeds may reach far
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return finish(figure, 200)


def learning_curves(metrics: dict[str, list[Any]]) -> Figure:
    """Validation accuracy by epoch, fused and by modality; below it the mean absolute gap of the training clips."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    epochs = metrics["epoch"]
    for name, color in MODALITIES.items():
        column = "val_accuracy" if name == "fused" else f"val_{name}_accuracy"
        figure.add_scatter(
            x=epochs,
            y=[rounded(value) for value in metrics[column]],
            mode="lines+markers",
            line={"color": color, "width": 3 if name == "fused" else 2},
            hovertemplate=f"{name} %{{y:.3f}}<extra></extra>",
            name=name,
        )
    figure.add_scatter(
        x=epochs,
        y=[rounded(value) for value in metrics["gap_absolute_mean"]],
        mode="lines+markers",
        line={"color": QUIET, "width": 2},
        hovertemplate="mean |gap| %{y:.3f}<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )
    stages = metrics["stage"]
    starts = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(stages)], strict=True):
        figure.add_vrect(
            x0=epochs[start] - 0.5,
            x1=epochs[end - 1] + 0.5,
            fillcolor=QUIET,
            opacity=0.16 if stages[start] == "adaptive" else 0.05,
            line_width=0,
            annotation_text=escape(stages[start]),
            annotation_position="bottom left",
            row=1,
            col=1,
        )
    figure.add_vline(x=metrics["best_epoch"][-1], line={"color": FUSED, "dash": "dot", "width": 1.5})
    figure.update_yaxes(title_text="accuracy", row=1, rangemode="tozero")
    figure.update_yaxes(title_text="mean |gap|", row=2, rangemode="tozero")
    figure.update_xaxes(range=[epochs[0] - 0.5, epochs[-1] + 0.5])
    figure.update_xaxes(title_text="epoch", row=2)
    figure.update_layout(hovermode="x unified")
    return finish(figure, 480)


def gap_histogram(histogram: GapHistogram, score: str) -> Figure:
    """Gaps of the training clips, with the fitted components."""
    figure = Figure(_gap_traces(histogram))
    figure.update_layout(xaxis_title=SCORE_NAMES[score], yaxis_title="clips", bargap=0)
    figure.update_yaxes(range=[0, 1.15 * float(histogram.counts.max())])
    return finish(figure, 300)


def gap_refits(histograms: dict[int, GapHistogram], score: str) -> Figure:
    """The same at each refit of the mixture, by epoch, with a slider."""
    if len(histograms) > MOST_STEPS:
        epochs = list(histograms)
        kept = np.linspace(0, len(epochs) - 1, MOST_STEPS).round().astype(int)
        histograms = {epochs[i]: histograms[epochs[i]] for i in kept}
    figure, steps = Figure(), []
    groups = [_gap_traces(histogram) for histogram in histograms.values()]
    total = sum(len(group) for group in groups)
    first = 0
    for epoch, group in zip(histograms, groups, strict=True):
        shown = [first <= i < first + len(group) for i in range(total)]
        steps.append({"label": str(epoch), "method": "restyle", "args": [{"visible": shown}]})
        figure.add_traces([{**trace, "visible": len(steps) == len(groups)} for trace in group])
        first += len(group)
    highest = max(float(histogram.counts.max()) for histogram in histograms.values())
    figure.update_layout(
        sliders=[{"steps": steps, "active": len(steps) - 1, "currentvalue": {"prefix": "epoch "}, "pad": {"t": 44}}],
        xaxis_title=SCORE_NAMES[score],
        yaxis_title="clips",
        bargap=0,
    )
    figure.update_yaxes(range=[0, 1.15 * highest])
    return finish(figure, 420)


def _gap_traces(histogram: GapHistogram) -> list[dict[str, Any]]:
    edges = histogram.edges
    bars = {
        "type": "bar",
        "x": [rounded(x) for x in (edges[:-1] + edges[1:]) / 2],
        "y": histogram.counts.tolist(),
        "width": rounded(edges[1] - edges[0]),
        "marker": {"color": BARS, "line": {"width": 0}},
        "hovertemplate": "%{x:.3f}: %{y} clips<extra></extra>",
        "name": "clips",
        "showlegend": False,
    }
    lines = [
        {
            "type": "scatter",
            "x": [rounded(value) for value in x],
            "y": [rounded(value) for value in height],
            "mode": "lines",
            "line": {"color": color, "width": 2.5},
            "name": f"{name} ({share:.0%})",
            "hoverinfo": "skip",
        }
        for (name, (share, x, height)), color in zip(
            histogram.components().items(), (BALANCED, IMBALANCED), strict=False
        )
    ]
    return [bars, *lines]


def describe(trial: FrozenTrial, judged_on: str) -> str:
    """A trial in the lines of a tooltip."""
    rows = [f"<b>trial {trial.number}</b>", f"{judged_on} {last_value(trial):.3f}"]
    return "<br>".join(
        [*rows, *(f"{escape(name)}: {escape(number(setting))}" for name, setting in fields_of(trial).items())]
    )


def number(value: Any) -> str:
    """A parameter's value, or a metric's, in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def last_value(trial: FrozenTrial) -> float | None:
    """Of a trial that was stopped, the last value it had."""
    if trial.value is None and trial.intermediate_values:
        return trial.intermediate_values[trial.last_step]
    return trial.value


def rounded(value: float | None) -> float | None:
    """Five digits: the page carries every number as text."""
    return None if value is None else float(f"{value:.5g}")


def _tick_whole_numbers(figure: Figure, count: int) -> None:
    """Of a few plotly would show the halves, too."""
    if count <= 12:
        figure.update_xaxes(dtick=1)


def finish(figure: Figure, height: int) -> Figure:
    """The figure at a height in pixels, ready for the page to lay its template over it."""
    figure.update_layout(height=height, template=None)
    if figure.layout.showlegend is False and figure.layout.margin.t is None:
        figure.update_layout(margin_t=10)
    return figure
