"""What does early stopping save, and what does it miss? Sweeps replayed over recorded curves (curves.py).

python benchmarks/replay.py --results benchmarks/results/replay.md

A sweep is a random subset of a set's configurations in a random order, one trial after the other, or several at a time
whose epochs end in random turn. Rules are raygap's own code (raygap/search/stopping.py), told epoch by epoch as Tune
tells it; `one rung` is what raygap did before, `asha from epoch 1` what one gets without a thought of warm-ups.

* epochs: those trained, a shared warm-up counted once, as a share of all trials trained to their end;
* regret: validation accuracy, in points, of what is chosen (the best of the trials that came to their end), below the
  best of all in the sweep, had they been trained to the end. `test`: the test accuracy of what is chosen.

All rules meet the same sweeps. In brackets the middle 95 % of them; `to one rung` is the difference in the same sweep.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer
from pages import write_page

from raygap.search.stopping import StoppingRule, Warmup, make_rule

CURVES = Path(__file__).parent / "results" / "curves.parquet"
BEFORE = "one rung"
LONGEST = 0.4
"""Longest warm-up of the data sets' spaces, of all epochs; all methods of a comparison were judged after it."""


@dataclass(frozen=True)
class Curve:
    """A training: what the search was told after each epoch, and the test accuracy of its selected epoch."""

    warmup: Warmup
    epochs: int
    values: tuple[float, ...]
    """Validation accuracy of the selected epoch so far; fewer than epochs if it failed."""
    test: float

    @property
    def whole(self) -> bool:
        """It came to its end."""
        return len(self.values) == self.epochs


class OldRule(StoppingRule):
    """Ray's ASHA as raygap had it: rungs the same for all, whatever their warm-ups; the best third, by a quantile."""

    def rungs(self, warmup: int) -> list[int]:
        """As StoppingRule, but of all trials."""
        return [self.first * 3**k for k in range(8) if self.first * 3**k < self.epochs]

    def goes_on(self, trial: int, warmup: Warmup, epoch: int, value: float) -> bool:
        """As StoppingRule."""
        known = self.values.setdefault(epoch, {})
        others = list(known.values())
        known[trial] = value
        return epoch not in self.rungs(0) or not others or value >= np.percentile(others, 100 * (1 - 1 / 3))


MakeRule = Callable[[int], StoppingRule]
RULES: dict[str, MakeRule] = {
    "none": lambda epochs: make_rule("none", epochs),
    BEFORE: lambda epochs: OldRule(epochs, int(LONGEST * epochs) + 1, 3, 1 / 3),
    "asha from epoch 1": lambda epochs: OldRule(epochs, 1, 3, 1 / 3),
    "asha": lambda epochs: make_rule("asha", epochs),
    "median": lambda epochs: make_rule("median", epochs),
    "after:half": lambda epochs: make_rule(f"after:{epochs // 2}", epochs),
}


SETTINGS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4), (1.1, 1.25, 1.5, 2.0), (1 / 4, 1 / 3, 0.4, 1 / 2)
"""What the grid crosses: `first` as a share of the epochs, `factor` and `kept` of StoppingRule."""


@dataclass(frozen=True)
class Outcome:
    """Of a replayed sweep: share of epochs trained, regret in points, test accuracy, trials that came to their end."""

    epochs: float
    regret: float
    test: float
    ended: int


def read_curves(file: Path) -> dict[str, list[Curve]]:
    """By set: data set and method."""
    sets: dict[str, list[Curve]] = {}
    for row in pq.read_table(file).to_pylist():
        accuracy, warm = row["val_accuracy"] or [], row["warmup"]
        values = (*accuracy[:warm], *accumulate(accuracy[warm:], max))
        after = accuracy[warm:]
        test = row["test_accuracy"][warm + int(np.argmax(after))] if after else 0.0
        curve = Curve(Warmup(warm, row["trunk"]), row["epochs"], values, test)
        sets.setdefault(f"{row['data']}, {row['method']}", []).append(curve)
    return sets


def replay(rule: StoppingRule, curves: Sequence[Curve], at_once: int = 1) -> Outcome:
    """A sweep of these trainings, begun in their order; of several that run, which ends its epoch first is chance."""
    draw, waiting, running = random.Random(0), list(range(len(curves)))[::-1], dict[int, int]()
    ended, trained, shared = [], 0, defaultdict(int)
    while waiting or running:
        while waiting and len(running) < at_once:
            running[waiting.pop()] = 0
        number = draw.choice(list(running))
        curve, epoch = curves[number], running[number] + 1
        if epoch > len(curve.values):  # it is over, or has failed
            del running[number]
            ended += [number] if curve.whole else []
            continue
        running[number] = epoch
        if epoch <= curve.warmup.epochs:
            shared[curve.warmup.name] = max(shared[curve.warmup.name], epoch)
        else:
            trained += 1
        # Tune does not ask after the last one.
        if epoch < curve.epochs and not rule.goes_on(number, curve.warmup, epoch, curve.values[epoch - 1]):
            del running[number]
    best = max(curve.values[-1] for curve in curves if curve.whole)
    share = (trained + sum(shared.values())) / sum(curve.epochs for curve in curves)
    if not ended:
        return Outcome(share, 100 * best, 0.0, 0)
    chosen = max(ended, key=lambda number: curves[number].values[-1])
    return Outcome(share, 100 * (best - curves[chosen].values[-1]), 100 * curves[chosen].test, len(ended))


def sweeps(curves: list[Curve], trials: int, number: int) -> list[list[Curve]]:
    """So many random subsets in random orders, of at most three quarters of what there is."""
    draw = random.Random(0)
    return [draw.sample(curves, min(trials, 3 * len(curves) // 4)) for _ in range(number)]


def replay_all(make: MakeRule, drawn: list[list[Curve]], at_once: int) -> list[Outcome]:
    """Each sweep meets a rule that knows nothing yet."""
    return [replay(make(curves[0].epochs), curves, at_once) for curves in drawn]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and the middle 95 %."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(sets: dict[str, list[Curve]], trials: int, number: int, at_once: int) -> list[str]:
    """Markdown: a row a set and rule."""
    lines = [
        "| set | rule | epochs | to one rung | regret | to one rung | test | trials ended |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, curves in sets.items():
        drawn = sweeps(curves, trials, number)
        before = replay_all(RULES[BEFORE], drawn, at_once)
        for rule, make in RULES.items():
            found = replay_all(make, drawn, at_once)
            epochs = np.mean([one.epochs for one in found])
            ratio = epochs / np.mean([one.epochs for one in before])
            worse = [one.regret - other.regret for one, other in zip(found, before, strict=True)]
            cells = [name, rule, f"{100 * epochs:.0f} %", f"{ratio:.2f}x", spread([one.regret for one in found])]
            cells += ["" if rule == BEFORE else spread(worse), f"{np.mean([one.test for one in found]):.2f}"]
            lines.append(f"| {' | '.join(cells)} | {np.mean([one.ended for one in found]):.1f} of {len(drawn[0])} |")
    return lines


def grid(sets: dict[str, list[Curve]], trials: int, number: int, at_once: int) -> list[str]:
    """Markdown: what was chosen among, without those that another beats in both. Means over the sets, to one rung."""
    drawn = {name: sweeps(curves, trials, number) for name, curves in sets.items()}
    before = {name: replay_all(RULES[BEFORE], some, at_once) for name, some in drawn.items()}
    rows = []
    for first, factor, kept in product(*SETTINGS):

        def make(epochs: int, chosen: tuple = (first, factor, kept)) -> StoppingRule:
            return StoppingRule(epochs, math.ceil(chosen[0] * epochs), *chosen[1:])

        ratios, regrets = [], []
        for name, some in drawn.items():
            found = replay_all(make, some, at_once)
            ratios.append(np.mean([one.epochs for one in found]) / np.mean([one.epochs for one in before[name]]))
            regrets.append(np.mean([one.regret for one in found]) - np.mean([one.regret for one in before[name]]))
        rows.append((np.mean(ratios), np.mean(regrets), max(regrets), first, factor, kept))
    lines = ["| first | factor | kept | epochs to one rung | regret to one rung | in the worst set |"]
    lines.append("|---|---|---|---|---|---|")
    least = math.inf
    for ratio, regret, worst, first, factor, kept in sorted(rows):
        if regret >= least:
            continue
        least = regret
        lines.append(f"| {first:g} | {factor:g} | {kept:.2f} | {ratio:.2f}x | {regret:+.2f} | {worst:+.2f} |")
    return lines


def main(
    curves: Annotated[Path, typer.Option(help="What curves.py has recorded.")] = CURVES,
    trials: Annotated[int, typer.Option(min=2, help="Trials a sweep.")] = 50,
    number: Annotated[int, typer.Option("--sweeps", min=1, help="Sweeps a set.")] = 200,
    at_once: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Replay, and print what each rule does and what its settings were chosen among."""
    sets = read_curves(curves)
    lines = [f"`python benchmarks/replay.py --trials {trials} --sweeps {number} --at-once {at_once}`\n"]
    for name, some in sets.items():
        drawn = len(sweeps(some, trials, 1)[0])
        lines.append(f"* {name}: {len(some)} configurations of {some[0].epochs} epochs, sweeps of {drawn}.")
    lines += [
        "",
        *table(sets, trials, number, at_once),
        "",
        "## Settings\n",
        *grid(sets, trials, max(number // 4, 1), at_once),
    ]
    print("\n".join(lines))
    write_page(results, "Early stopping, replayed", lines)


if __name__ == "__main__":
    typer.run(main)
