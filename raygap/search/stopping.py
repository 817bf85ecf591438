"""Which trials are stopped early: a rule is told of every epoch and answers stop or go. It knows no Ray and no Optuna.

A trial is judged at rungs, epochs counted from its own start, against the values that others had at the same epoch: so
schedules and lengths compare like with like. Trials that are still warming up are neither judged nor counted; of the
warm-ups that trials share, each counts once, as a trial whose adaptive stage has not begun. Where the network starts
anew after the training of its teachers, epochs are counted from there, and the warm-up counts nowhere.

How the settings were chosen: benchmarks/replay.py, benchmarks/results/replay.md.
"""

import math
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

from raygap.errors import UserError

STOPPERS = ("asha", "median", "none", "after:N")
FIRST, FACTOR, KEPT = 0.15, 2.0, 1 / 2
"""What replays have chosen; FIRST is a share of all epochs."""


@dataclass(frozen=True)
class Warmup:
    """How many epochs a trial's warm-up has, and a name, no number, that those have in common which share theirs."""

    epochs: int
    name: Hashable
    starts_anew: bool = False
    """The network does after it."""

    @property
    def before(self) -> int:
        """Epochs before those of the network that is judged."""
        return self.epochs if self.starts_anew else 0


@dataclass
class StoppingRule:
    """At each of its rungs a trial goes on if it is among the best `kept` share of those that came as far, itself
    included.

    Its first rung is after its first adaptive epoch, but not before its network's epoch `first`; from each to the next
    the epochs since its warm-up grow by `factor`, by one at least.
    """

    epochs: int
    first: int
    factor: float
    kept: float
    values: dict[int, dict[Hashable, float]] = field(default_factory=dict)
    """By epoch of the network, then by trial."""

    def rungs(self, warmup: Warmup) -> Iterator[int]:
        """The epochs after which a trial with this warm-up is judged."""
        rung = max(warmup.before + self.first, warmup.epochs + 1)
        while rung < self.epochs:
            yield rung
            rung = max(rung + 1, warmup.epochs + math.ceil((rung - warmup.epochs) * self.factor))

    def goes_on(self, trial: int, warmup: Warmup, epoch: int, value: float) -> bool:
        """Note a trial's value after an epoch, the larger the better. False: it is to be stopped.

        What is told twice, as by a trial that was started again, is judged once.
        """
        trained = epoch - warmup.before
        if trial in self.values.get(trained, {}):
            return True
        self.remember(trial, warmup, {epoch: value})
        return epoch not in self.rungs(warmup) or self.passes(trial, trained, value)

    def passes(self, trial: int, epoch: int, value: float) -> bool:
        """The verdict at a rung, an epoch of the network."""
        known = self.values[epoch].values()
        return sum(other > value for other in known) < self.kept * len(known)

    def remember(self, trial: int, warmup: Warmup, values: Mapping[int, float]) -> None:
        """Note values by epoch without a verdict: those of an earlier run of the same search."""
        for epoch, value in values.items():
            if epoch > warmup.before:
                known = self.values.setdefault(epoch - warmup.before, {})
                known[warmup.name if epoch <= warmup.epochs else trial] = value


class MedianRule(StoppingRule):
    """A trial goes on unless its value is below the median, over those that came as far, of the means of their values
    up to then (Golovin et al., Google Vizier, KDD 2017, 3.2.2).
    """

    def passes(self, trial: int, epoch: int, value: float) -> bool:
        """As StoppingRule."""
        others = self.values[epoch].keys() - {trial}
        means = [fmean(at[one] for past, at in self.values.items() if past <= epoch and one in at) for one in others]
        return not means or not value < median(means)


def make_rule(stopper: str, epochs: int) -> StoppingRule:
    """The rule of this name for trials of so many epochs. Raises UserError for another name than those of STOPPERS."""
    number = re.fullmatch(r"after:(\d+)", stopper)
    if number:
        first = int(number[1])
        if not 0 < first < epochs:
            raise UserError(
                f"--stopper {stopper}: trials have {epochs} epochs, so give a number from 1 to {epochs - 1}, or none"
            )
        return StoppingRule(epochs, first, FACTOR, KEPT)
    if stopper not in STOPPERS[:3]:
        raise UserError(f"--stopper {stopper}: unknown; choose from {', '.join(STOPPERS)}, N a number of epochs")
    return {
        "asha": StoppingRule(epochs, math.ceil(FIRST * epochs), FACTOR, KEPT),
        "median": MedianRule(epochs, math.ceil(FIRST * epochs), 1.0, 0.5),
        "none": StoppingRule(epochs, epochs, FACTOR, KEPT),
    }[stopper]
