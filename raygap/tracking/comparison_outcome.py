"""What a comparison says, in sentences: does any method beat the baseline, and which one did validation choose."""

from raygap.tracking.comparison_table import ACCURACY, BASELINES, Difference, MethodResult, differences
from raygap.tracking.seed_results import Interval
from raygap.tracking.worth import points

CLEAR = 0.05
"""A corrected p below this is called clear."""
MOST_NAMED = 3


def main_baseline(results: list[MethodResult]) -> str | None:
    """Of the baselines with a test result the better one on validation; None if there is none."""
    reached = {result.method: result.validation for result in results if result.seeds and result.validation is not None}
    return max((name for name in reversed(BASELINES) if name in reached), key=reached.__getitem__, default=None)


def chosen_method(results: list[MethodResult]) -> MethodResult | None:
    """The best on validation, of equals the first; None if no trial of any was complete."""
    known = [result for result in results if result.validation is not None]
    return max(known, key=lambda result: result.validation, default=None)


def outcome(results: list[MethodResult]) -> str:
    """In a few sentences; accuracies and points in percent, intervals of 95 %, differences paired by seed."""
    tested = [result for result in results if result.seeds]
    if not tested:
        return "No method has a test result yet."
    baseline = main_baseline(results)
    if baseline is None:
        found: dict[str, Difference] = {}
        told = [f"No baseline ({' or '.join(BASELINES)}) took part: whether any method helps is not known from here."]
    else:
        found = differences(results, baseline)
        told = _against(baseline, found)
    return " ".join([*told, *_choice(results, found, baseline)])


def clear(difference: Difference) -> bool:
    """Told from the baseline by the paired t-test, corrected for the number of methods."""
    return difference.t_test < CLEAR  # NaN, of a single seed, is not


def _against(baseline: str, found: dict[str, Difference]) -> list[str]:
    if not found:
        return [f"Only the baseline {baseline} has a result on these seeds."]
    order = sorted(found, key=lambda method: -found[method].interval.mean)
    better = [method for method in order if clear(found[method]) and found[method].interval.mean > 0]
    worse = [method for method in order if clear(found[method]) and found[method].interval.mean < 0]
    count = f"{len(found)} method{'s' if len(found) > 1 else ''}"
    test = f"paired t-test{', corrected after Holm' if len(found) > 1 else ''}, 5 %"
    if better:
        named = "; ".join(_ahead(method, found[method]) for method in better[:MOST_NAMED])
        more = f"; and {len(better) - MOST_NAMED} more" if len(better) > MOST_NAMED else ""
        verb = "is" if len(better) == 1 else "are"
        told = [f"{len(better)} of {count} {verb} clearly better than {baseline} ({test}): {named}{more}."]
    else:
        first = order[0]
        furthest = f"; furthest {_ahead(first, found[first])}" if found[first].interval.mean > 0 else ""
        told = [f"None of {count} is clearly better than {baseline} ({test}){furthest}."]
    return told + ([f"Clearly worse: {', '.join(worse)}."] if worse else [])


def _ahead(method: str, difference: Difference) -> str:
    size = points(difference.interval.mean, difference)
    return f"{method} by {size} points, ahead on {difference.wins} of {difference.seeds} seeds"


def _choice(results: list[MethodResult], found: dict[str, Difference], baseline: str | None) -> list[str]:
    chosen = chosen_method(results)
    if chosen is None:
        return []
    told = f"Validation chooses {chosen.method} ({100 * chosen.validation:.2f} %)"
    if chosen.seeds:
        told += f", which reaches {reached(chosen)} on test"
    if difference := found.get(chosen.method):
        where = "ahead of" if difference.interval.mean > 0 else "behind"
        told += f", {points(abs(difference.interval.mean), difference)} points {where} {baseline}"
    tested = [result for result in results if result.seeds]
    highest = max(tested, key=lambda result: _interval(result).mean)
    if highest is chosen or (chosen.seeds and _interval(highest).mean == _interval(chosen).mean):
        return [f"{told}."]
    return [f"{told}. Highest on test is {highest.method} ({reached(highest)}), which validation did not choose."]


def reached(result: MethodResult) -> str:
    """Its test accuracy: 93.10 ± 0.79 %."""
    interval = _interval(result)
    width = f" ± {100 * interval.half_width:.2f}" if len(result.seeds) > 1 else ""
    return f"{100 * interval.mean:.2f}{width} %"


def _interval(result: MethodResult) -> Interval:
    return Interval.of([metrics[ACCURACY] for metrics in result.seeds.values()])
