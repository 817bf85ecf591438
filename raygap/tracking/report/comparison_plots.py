"""The figures of a comparison's page; as those of a sweep's, without a template."""

from html import escape

from plotly.graph_objects import Figure

from raygap.tracking.comparison_outcome import main_baseline
from raygap.tracking.comparison_table import ACCURACY, BASELINES, Difference, MethodResult
from raygap.tracking.report.plots import AUDIO, FUSED, MODALITIES, QUIET, VISUAL, ahead, finish, rounded, rows
from raygap.tracking.report.run import Absent
from raygap.tracking.seed_results import Interval

TOO_NEAR = 0.07
"""Names of two points this near, as a share of a figure's height, would lie on each other."""


def forest(found: dict[str, Difference], baseline: str) -> Figure:
    """How far each method is ahead of the baseline, the furthest first."""
    order = sorted(found, key=lambda method: -found[method].interval.mean)
    return ahead({method: found[method] for method in order}, f"points ahead of {escape(baseline)}")


def ranks(found: dict[str, float], difference: float) -> Figure:
    """Mean rank of each method; the bar is as long as the critical difference, from the best one's rank on."""
    order = sorted(found, key=found.__getitem__)
    best, last = found[order[0]], found[order[0]] + difference
    figure = Figure()
    figure.add_scatter(
        x=[rounded(found[method]) for method in order],
        y=[escape(method) for method in order],
        mode="markers",
        marker={"color": [VISUAL if found[method] <= last else QUIET for method in order], "size": 11},
        hovertemplate="%{y}: mean rank %{x:.2f}<extra></extra>",
    )
    figure.add_vrect(x0=best, x1=last, fillcolor=VISUAL, opacity=0.1, line_width=0)
    figure.add_shape(type="line", x0=best, x1=last, y0=1, y1=1, yref="paper", line={"color": VISUAL, "width": 5})
    text = f"critical difference {difference:.2f}"
    figure.add_annotation(x=best, y=1, yref="paper", text=text, showarrow=False, xanchor="left", yanchor="bottom")
    figure.update_layout(xaxis_title="mean rank (1 is best)", margin_t=30)
    figure.update_xaxes(range=[0.8, max(len(order), last) + 0.2])
    return rows(figure, order)


def modalities(results: list[MethodResult]) -> Figure:
    """Test accuracy of each method, fused and by modality, with intervals."""
    order = sorted(results, key=lambda result: -_of(result, ACCURACY).mean)
    figure = Figure()
    for name, color in MODALITIES.items():
        metric = ACCURACY if name == "fused" else f"test_{name}_accuracy"
        found = [_of(result, metric) for result in order]
        widths = [
            rounded(100 * one.half_width) if len(result.seeds) > 1 else 0
            for one, result in zip(found, order, strict=True)
        ]
        figure.add_scatter(
            x=[rounded(100 * interval.mean) for interval in found],
            y=[escape(result.method) for result in order],
            error_x={"array": widths, "color": color, "thickness": 1.5, "width": 3},
            mode="markers",
            marker={"color": color, "size": 9, "symbol": "diamond" if name == "fused" else "circle"},
            hovertemplate=f"%{{y}}, {name}: %{{x:.2f}} %<extra></extra>",
            name=name,
        )
    figure.update_layout(xaxis_title="test accuracy, %")
    return rows(figure, [result.method for result in order], legend=True)


def against_cost(results: list[MethodResult], cost: str, chosen: MethodResult | None) -> Figure:
    """Test accuracy by what the search cost: `cost` is seconds or epochs."""
    known = [result for result in results if cost in result.cost]
    if not known:
        raise Absent(f"What was spent, in {cost}, is not known.")
    scale, unit = (60, "minutes") if cost == "seconds" else (1, cost)
    x = [result.cost[cost] / scale for result in known]
    figure = _named_points(known, x, [100 * _of(result, ACCURACY).mean for result in known], chosen, middle=max(x) / 2)
    figure.update_layout(xaxis_title=f"{unit} of search", yaxis_title="test accuracy, %")
    figure.update_xaxes(rangemode="tozero")
    return finish(figure, 360)


def validation_and_test(results: list[MethodResult], chosen: MethodResult | None) -> Figure:
    """Test accuracy by the validation accuracy that a configuration was chosen for; both are equal on the line."""
    known = [result for result in results if result.validation is not None]
    if not known:
        raise Absent("No validation accuracy is known.")
    x, y = [100 * result.validation for result in known], [100 * _of(result, ACCURACY).mean for result in known]
    figure = _named_points(known, x, y, chosen, middle=(min(x) + max(x)) / 2)
    low, high = max(min(x), min(y)), min(max(x), max(y))
    if low < high:  # where they overlap: elsewhere the line would make the figure as wide as both
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"color": QUIET, "dash": "dot"})
    figure.update_layout(xaxis_title="validation accuracy, %", yaxis_title="test accuracy, %")
    return finish(figure, 360)


def _named_points(
    results: list[MethodResult], x: list[float], y: list[float], chosen: MethodResult | None, middle: float
) -> Figure:
    """A point a method, its name beside it, towards the `middle` of the figure: of points at one height the first's."""
    first = [chosen.method if chosen else None, main_baseline(results)]
    high = max(y) - min(y) or 1
    labelled: list[int] = []
    for i in sorted(range(len(results)), key=lambda i: (results[i].method not in first, -y[i])):
        if all(abs(y[i] - y[j]) / high > TOO_NEAR for j in labelled):
            labelled.append(i)
    kinds: dict[str, tuple[str, str, list[int]]] = {
        "chosen on validation": (FUSED, "star", []),
        "baseline": (AUDIO, "diamond", []),
        "other method": (VISUAL, "circle", []),
    }
    for i, result in enumerate(results):
        kind = "baseline" if result.method in BASELINES else "other method"
        kinds["chosen on validation" if result is chosen else kind][2].append(i)
    figure = Figure()
    for kind, (color, symbol, own) in kinds.items():
        figure.add_scatter(
            x=[rounded(x[i]) for i in own],
            y=[rounded(y[i]) for i in own],
            text=[escape(results[i].method) if i in labelled else "" for i in own],
            textposition=["middle right" if x[i] <= middle else "middle left" for i in own],
            customdata=[escape(results[i].method) for i in own],
            mode="markers+text",
            marker={"color": color, "symbol": symbol, "size": 12 if symbol == "star" else 9},
            cliponaxis=False,
            hovertemplate="%{customdata}<br>%{x:.2f}, %{y:.2f}<extra></extra>",
            name=kind,
        )
    return figure


def _of(result: MethodResult, metric: str) -> Interval:
    return Interval.of([metrics[metric] for metrics in result.seeds.values()])
