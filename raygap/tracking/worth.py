"""What a search was worth: the chosen configuration beside its control and the baselines, paired by test seed."""

from dataclasses import dataclass
from statistics import fmean

from raygap.tracking.comparison_table import ACCURACY, BASELINES
from raygap.tracking.run_folder import BASELINE, GUIDED
from raygap.tracking.seed_results import Interval, Paired, SeedResults

CHOSEN, SHUFFLED = "chosen", "shuffled"
"""The chosen configuration; and the same with posteriors shuffled within each class, which know nothing of a clip."""
CORRECTED = "test_corrected_accuracy"
CORRECTED_METRICS = (CORRECTED, "test_corrected_macro_f1")
"""With the correction of the decision layer that was fitted to the training's own validation (training/final.py)."""
EPOCHS = ("epoch", "epochs_reused")
CONFIGURATION, AHEAD = "configuration", "chosen_ahead"
"""Columns of test.csv where references took part: whose row it is, and how far the chosen one is ahead of it."""
VALIDATION = "best_val_accuracy"


def control_of(method: str) -> str:
    """Name of a guided method's own shuffled control, where another configuration is the chosen one."""
    return f"{method}-{SHUFFLED}"


@dataclass(frozen=True)
class Worth:
    """`results` by name: CHOSEN first, then its references."""

    method: str
    results: dict[str, SeedResults]

    @property
    def references(self) -> list[str]:
        """Those that have a result on a seed that the chosen one has one on."""
        return [name for name in self.results if name != CHOSEN and self.ahead_of(name)]

    def ahead_of(self, name: str, metric: str = ACCURACY) -> Paired | None:
        """How far the chosen configuration is ahead; None where no seed has both."""
        return self._paired(CHOSEN, name, metric)

    @property
    def baseline(self) -> str | None:
        """The baseline with the better mean validation accuracy over the seeds; None if none was trained."""
        known = {
            name: fmean(row[VALIDATION] for row in self.results[name].rows.values())
            for name in reversed(BASELINES)
            if name in self.references
        }
        return max(known, key=known.__getitem__, default=None)

    @property
    def beaten(self) -> bool:
        """The baseline is clearly worse on test."""
        paired = self.ahead_of(self.baseline) if self.baseline else None
        return paired is not None and paired.clear and paired.interval.mean > 0

    @property
    def lost(self) -> bool:
        """The baseline is as good or better on test: of equals the plain one is to be used."""
        paired = self.ahead_of(self.baseline) if self.baseline else None
        return paired is not None and paired.interval.mean <= 0

    @property
    def rival(self) -> str | None:
        """The guided method that stands, with a control of its own, beside a plain choice; None if there is none."""
        return next((name for name in self.references if control_of(name) in self.references), None)

    @property
    def preferred(self) -> bool:
        """Over these seeds, at least two, validation prefers the rival; of equals the plain one is to be used."""
        paired = self.ahead_of(self.rival, VALIDATION) if self.rival else None
        return paired is not None and paired.seeds > 1 and paired.interval.mean < 0

    @property
    def sentence(self) -> str:
        """The outcome in one sentence; empty if no reference was trained."""
        if not self.references:
            return ""
        first = next(iter(self._others), None)
        parts = [f"{self.method} is {_against(self.ahead_of(first), first)}"] if first else []
        guided, control = (self.rival, control_of(self.rival)) if self.rival else (CHOSEN, SHUFFLED)
        if shuffled := self._paired(guided, control):
            whose = f"{self.rival}'s" if self.rival else "its"
            told = points(shuffled.interval.mean, shuffled, "+")
            if shuffled.interval.mean > 0 and (shuffled.clear or shuffled.seeds == 1):
                parts.append(f"the mixture accounts for {told.removeprefix('+')} points of {whose} accuracy")
            else:
                parts.append(
                    f"that {whose} mixture adds anything cannot be told ({told} points to shuffled posteriors)"
                )
        return "; ".join(parts) + "."

    @property
    def advice(self) -> str:
        """What to use instead, if validation over these seeds prefers the rival, or the method has lost; else empty."""
        if self.preferred:
            ahead = self._paired(self.rival, CHOSEN, VALIDATION)
            return (
                f"Use {self.rival}, whose configuration is in {GUIDED}: over these seeds validation prefers it, by "
                f"{points(ahead.interval.mean, ahead)} points; the search chose by another."
            )
        if not self.lost:
            return ""
        why = "has lost to it" if self.ahead_of(self.baseline).clear else "is not ahead of it"
        return f"Use {self.baseline}, whose configuration is in {BASELINE}: {self.method} {why}."

    @property
    def _others(self) -> list[str]:
        """References that are no control."""
        controls = {SHUFFLED, *map(control_of, self.references)}
        return [name for name in self.references if name not in controls]

    def _paired(self, one: str, other: str, metric: str = ACCURACY) -> Paired | None:
        """How far the one is ahead of the other; None where no seed has both."""
        if one not in self.results or other not in self.results:
            return None
        return Paired.of(self.results[one].rows, self.results[other].rows, metric)

    def lines(self) -> list[str]:
        """What else is to be said, a line each."""
        found = []
        found += [f"{self.method} is {_against(self.ahead_of(name), name)}." for name in self._others[1:]]
        for name in self.references:
            if name in BASELINES and (corrected := self.ahead_of(name, CORRECTED)):
                found.append(f"Both with the decision layer corrected: {_against(corrected, name)}.")
        for name in filter(None, (self.rival, self.baseline)):
            if validation := self.ahead_of(name, VALIDATION):
                found.append(f"On validation, over the same seeds: {_against(validation, name)}.")
        trained, reused = (sum(of(self.results[name]) for name in self.references) for of in (_trained, _reused))
        if trained:
            also = f", and {reused} more of shared warm-up" if reused else ""
            found.append(f"The references cost {trained} epochs{also}; --no-references leaves them out.")
        return found

    def table(self) -> list[list[str]]:
        """For people, in percent: a header, then a row a configuration."""
        header = ["configuration", "test accuracy", "ahead of it by", "on seeds", "corrected", "ahead of it by"]
        rows = []
        for name, found in self.results.items():
            if not found.rows:
                continue
            paired, corrected = (None if name == CHOSEN else self.ahead_of(name, of) for of in (ACCURACY, CORRECTED))
            cells = [self.method if name == CHOSEN else f"its own, {name}" if name == SHUFFLED else name]
            cells += [_mean(found, ACCURACY), _points(paired), f"{paired.wins} of {paired.seeds}" if paired else ""]
            rows.append([*cells, _mean(found, CORRECTED), _points(corrected)])
        return [header, *rows]


def points(mean: float, paired: Paired, sign: str = "") -> str:
    """A mean of accuracy with the half width of its 95 % interval, if it has one: 2.9 ± 1.6."""
    return f"{100 * mean:{sign}.1f}" + (f" ± {100 * paired.interval.half_width:.1f}" if paired.seeds > 1 else "")


def _points(paired: Paired | None) -> str:
    return points(paired.interval.mean, paired, "+") if paired else ""


def _against(paired: Paired, name: str) -> str:
    """How it did, behind "is"."""
    mean, seeds = paired.interval.mean, f"on {paired.wins} of {paired.seeds} seeds"
    if not any(paired.gains):
        return f"equal to {name} on each seed, {paired.seeds} in all"
    size = f"{points(abs(mean), paired)} points"
    told = "" if paired.clear else ", which one seed cannot tell" if paired.seeds == 1 else ", which may be chance"
    if abs(mean) < 0.0005:
        return f"level with {name} ({size}), ahead {seeds}"
    if mean > 0:
        return f"{'better than' if paired.clear else 'ahead of'} {name} by {size} {seeds}{told}"
    return f"{'worse than' if paired.clear else 'behind'} {name} by {size}, ahead {seeds}{told}"


def _mean(results: SeedResults, metric: str) -> str:
    values = [row[metric] for row in results.rows.values() if row.get(metric) is not None]
    if not values:
        return ""
    interval = Interval.of(values)
    return f"{100 * interval.mean:.2f}" + (f" ± {100 * interval.half_width:.2f}" if len(values) > 1 else "")


def _trained(results: SeedResults) -> int:
    return int(sum(row.get("epoch", 0) for row in results.rows.values())) - _reused(results)


def _reused(results: SeedResults) -> int:
    return int(sum(row.get("epochs_reused", 0) for row in results.rows.values()))
