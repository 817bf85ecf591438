"""What does early stopping save, and what does it miss? Sweeps replayed over recorded curves (curves.py).

python benchmarks/replay.py --results benchmarks/results/replay.md

A sweep is a random subset of a set's configurations in a random order, one trial after the other, or several at a time
whose epochs end in random turn. Rules are raygap's own code (raygap/search/stopping.py), told epoch by epoch as Tune
tells it; `one rung` is what raygap did before, `asha from epoch 1` what one gets without a thought of warm-ups.

* epochs: those trained, a shared warm-up counted once, as a share of all trials trained to their end;
* regret: validation accuracy, in points, of what is chosen (the best of the trials that came to their end), below the
  best of all in the sweep, had they been trained to the end. `test`: the test accuracy of what is chosen.

All rules meet the same sweeps. In brackets the middle 95 % of them; `to one rung` is the difference in the same sweep.
The settings of `asha` are chosen on the first half of each set's configurations; the rules are compared on the other,
where it has as many configurations as a sweep has trials.
`asha, in step` is what asha would do in a sweep all of whose trials wait for each other at each rung.
"""

import json
import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer
from pages import write_page

from raygap.schema import shapes_warmup
from raygap.search.stopping import FACTOR, FIRST, KEPT, StoppingRule, Warmup, make_rule

CURVES = Path(__file__).parent / "results" / "curves.parquet"
BEFORE = "one rung"
IN_STEP = "asha, in step"
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

    def rungs(self, warmup: Warmup) -> list[int]:
        """As StoppingRule, but of all trials."""
        return [self.first * 3**k for k in range(8) if self.first * 3**k < self.epochs]

    def goes_on(self, trial: int, warmup: Warmup, epoch: int, value: float) -> bool:
        """As StoppingRule."""
        known = self.values.setdefault(epoch, {})
        others = list(known.values())
        known[trial] = value
        return epoch not in self.rungs(warmup) or not others or value >= np.percentile(others, 100 * (1 - 1 / 3))


class LateRule(StoppingRule):
    """Tried: as asha, but from the first rung on also judged after every epoch against all that were ever judged: a
    trial is to be among the best, as many as 0.6 times the share of the epochs that are left, two at least.
    """

    begun: set[int]

    def goes_on(self, trial: int, warmup: Warmup, epoch: int, value: float) -> bool:
        """As StoppingRule."""
        go = super().goes_on(trial, warmup, epoch, value)
        if epoch <= warmup.epochs or epoch < self.first:
            return go
        self.begun = {*getattr(self, "begun", ()), trial}
        better = sum(other > value for other in self.values[epoch].values())
        return go and better < max(0.6 * (1 - epoch / self.epochs) * len(self.begun), 2)


MakeRule = Callable[[int], StoppingRule]
RULES: dict[str, MakeRule] = {
    "none": lambda epochs: make_rule("none", epochs),
    BEFORE: lambda epochs: OldRule(epochs, int(LONGEST * epochs) + 1, 3, 1 / 3),
    "asha from epoch 1": lambda epochs: OldRule(epochs, 1, 3, 1 / 3),
    "asha": lambda epochs: make_rule("asha", epochs),
    "asha, late": lambda epochs: LateRule(epochs, math.ceil(FIRST * epochs), FACTOR, KEPT),
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
        # By what shapes it: the recorded key also tells of the code, which may have changed between two recordings.
        own = json.loads(row["config"]).items()
        name = tuple((path, value) for path, value in own if shapes_warmup(path, row["method"]))
        curve = Curve(Warmup(warm, name), row["epochs"], values, test)
        sets.setdefault(f"{row['data']}, {row['method']}", []).append(curve)
    return sets


def replay(rule: StoppingRule, curves: Sequence[Curve], at_once: int = 1) -> Outcome:
    """A sweep of these trainings, begun in their order; of several that run, which ends its epoch first is chance."""
    draw, waiting, running = random.Random(0), list(range(len(curves)))[::-1], list[int]()
    reached = [0] * len(curves)
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(waiting.pop())
        number = draw.choice(running)
        curve, epoch = curves[number], reached[number] + 1
        if epoch > len(curve.values):  # it is over, or has failed
            running.remove(number)
            continue
        reached[number] = epoch
        # Tune does not ask after the last one.
        if epoch < curve.epochs and not rule.goes_on(number, curve.warmup, epoch, curve.values[epoch - 1]):
            running.remove(number)
    return outcome(curves, reached)


def replay_in_step(rule: StoppingRule, curves: Sequence[Curve]) -> Outcome:
    """A sweep all of whose trials wait for each other at each of their rungs, as in successive halving."""
    reached, left = [0] * len(curves), dict(enumerate(curves))
    rungs = {number: [*rule.rungs(curve.warmup), curve.epochs] for number, curve in left.items()}
    for step in range(max(map(len, rungs.values()))):
        for number, curve in left.items():
            reached[number] = min(rungs[number][step], len(curve.values))
            rule.remember(number, curve.warmup, dict(enumerate(curve.values[: reached[number]], 1)))
        left = {
            number: curve
            for number, curve in left.items()
            if reached[number] == rungs[number][step] < curve.epochs
            and rule.passes(number, reached[number], curve.values[reached[number] - 1])
        }
    return outcome(curves, reached)


def outcome(curves: Sequence[Curve], reached: Sequence[int]) -> Outcome:
    """Of a sweep in which each training came as far as that."""
    trained, shared = 0, defaultdict[Hashable, int](int)
    for curve, epochs in zip(curves, reached, strict=True):
        shared[curve.warmup.name] = max(shared[curve.warmup.name], min(epochs, curve.warmup.epochs))
        trained += max(epochs - curve.warmup.epochs, 0)
    best = max(curve.values[-1] for curve in curves if curve.whole)
    share = (trained + sum(shared.values())) / sum(curve.epochs for curve in curves)
    ended = [curve for curve, epochs in zip(curves, reached, strict=True) if epochs == curve.epochs]
    if not ended:
        return Outcome(share, 100 * best, 0.0, 0)
    chosen = max(ended, key=lambda curve: curve.values[-1])
    return Outcome(share, 100 * (best - chosen.values[-1]), 100 * chosen.test, len(ended))


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
    """Markdown: a row a set and rule; several at a time of the rules that they might change."""
    rules = (*RULES, IN_STEP) if at_once == 1 else (BEFORE, "asha", "asha, late")
    lines = [
        "| set | rule | epochs | to one rung | regret | to one rung | test | trials ended |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, curves in sets.items():
        drawn = sweeps(curves, trials, number)
        before = replay_all(RULES[BEFORE], drawn, at_once)
        for rule in rules:
            if rule == IN_STEP:
                found = [replay_in_step(make_rule("asha", one[0].epochs), one) for one in drawn]
            else:
                found = replay_all(RULES[rule], drawn, at_once)
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
    trials: Annotated[list[int], typer.Option(min=2, help="Trials a sweep; may be repeated.")] = [12, 36],  # noqa: B006
    number: Annotated[int, typer.Option("--sweeps", min=1, help="Sweeps a set.")] = 100,
    results: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Replay, and print what each rule does and what its settings were chosen among."""
    sets = read_curves(curves)
    lines = [f"`python benchmarks/replay.py --trials {' --trials '.join(map(str, trials))} --sweeps {number}`\n"]
    lines += [f"* {name}: {len(some)} configurations of {some[0].epochs} epochs." for name, some in sets.items()]
    first = {name: some[: len(some) // 2] for name, some in sets.items()}
    other = {name: some[len(some) // 2 :] for name, some in sets.items()}
    for most in trials:
        large = {name: some for name, some in other.items() if len(some) >= most}
        for at_once in (1, 2):
            lines += ["", f"## Sweeps of {most} trials, {at_once} at a time\n", *table(large, most, number, at_once)]
    lines += ["", "## Settings\n", *grid(first, max(trials), max(number // 4, 1), 1)]
    print("\n".join(lines))
    write_page(results, "Early stopping, replayed", lines)


if __name__ == "__main__":
    typer.run(main)
