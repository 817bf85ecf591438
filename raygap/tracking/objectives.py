"""What a trial is judged on: numbers of its selected epoch, as --metric names them."""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raygap.errors import UserError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

METRIC = "metric"
"""In the study: what its trials are judged on, as --metric has it."""
VALUES = "values"
"""Of a complete trial in the study: each objective by name."""
OBJECTIVE = "objective"
"""Prefix of what is added to a trial's epochs: the value of each objective at the selected epoch so far."""


@dataclass(frozen=True)
class Objective:
    """The smallest of some metrics of the selected epoch; `words` follow on "validation" or "TEST"."""

    name: str
    words: str
    metrics: tuple[str, ...]
    lower: bool = False
    """Whether less is better."""

    @property
    def column(self) -> str:
        """In trials.csv."""
        return f"best_val_{self.name}"

    def of(self, row: Mapping[str, Any]) -> float:
        """From the metrics of an epoch."""
        return float(min(row[metric] for metric in self.metrics))


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "accuracy", ("val_accuracy",)),
        Objective("macro_f1", "macro-F1", ("val_macro_f1",)),
        Objective("loss", "loss", ("val_loss",), lower=True),
        Objective("worst_modality", "accuracy of the weaker modality", ("val_audio_accuracy", "val_visual_accuracy")),
    )
}
ONE_MODALITY = ("audio_only", "visual_only")
"""Methods whose answer by the other modality says nothing."""


def study_objectives(study: "optuna.Study") -> tuple[Objective, ...]:
    """Those of a study, which has noted them."""
    return parse_metric(study.user_attrs.get(METRIC, "accuracy"))


def front(trials: Iterable["FrozenTrial"], objectives: tuple[Objective, ...]) -> list["FrozenTrial"]:
    """The trials that no other equals in every objective and exceeds in one: the Pareto front, by the first objective.

    Those are complete that have VALUES.
    """
    points = [(_upward(trial, objectives), -trial.number, trial) for trial in trials if VALUES in trial.user_attrs]
    kept = [one for one in points if not any(_exceeds(other, one[0]) for other, *_ in points)]
    return [trial for *_, trial in sorted(kept, key=lambda one: one[:2], reverse=True)]


def _upward(trial: "FrozenTrial", objectives: tuple[Objective, ...]) -> tuple[float, ...]:
    values = trial.user_attrs[VALUES]
    return tuple(-values[one.name] if one.lower else values[one.name] for one in objectives)


def _exceeds(other: tuple[float, ...], point: tuple[float, ...]) -> bool:
    return other != point and all(a >= b for a, b in zip(other, point, strict=True))


def parse_metric(text: str) -> tuple[Objective, ...]:
    """The objectives that --metric names, by comma, the first the one that trials are stopped and ranked by.

    >>> [objective.name for objective in parse_metric("accuracy,worst_modality")]
    ['accuracy', 'worst_modality']
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in OBJECTIVES:
            raise UserError(f"--metric {text}: no metric {name!r}; choose from {', '.join(OBJECTIVES)}")
    if len(set(names)) < len(names):
        raise UserError(f"--metric {text}: names one twice")
    return tuple(OBJECTIVES[name] for name in names)


def in_words(metric: str, paper: bool) -> str:
    """What a trial's value is: the first objective of --metric.

    >>> in_words("loss,accuracy", paper=False)
    'validation loss'
    """
    words = parse_metric(metric)[0].words
    return f"TEST {words} (paper protocol)" if paper else f"validation {words}"


def judged(rows: Iterable[dict[str, Any]], objectives: tuple[Objective, ...]) -> Generator[dict[str, Any], None, None]:
    """The epochs of a trial, from its first on, each with the objectives at the epoch selected so far.

    `objective` is the first, turned so that more is better.
    """
    selected: dict[str, Any] = {}
    for row in rows:
        if row["epoch"] == row["best_epoch"]:
            selected = {f"{OBJECTIVE}_{objective.name}": objective.of(row) for objective in objectives}
            value = selected[f"{OBJECTIVE}_{objectives[0].name}"]
            selected[OBJECTIVE] = -value if objectives[0].lower else value
        yield row | selected
