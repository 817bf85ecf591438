"""What suggests the next trial: Optuna's samplers, as a sweep of a few dozen trials needs them."""

import math
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from raygap.rng import generator
from raygap.search.plan import Sampler
from raygap.search.space import SearchSpace, distribution

MOST_AT_RANDOM = 10
"""Trials at random before a model of what came out of them suggests the others: as many as Optuna's own default."""


def start_up(trials: int, known: int) -> int:
    """Trials before the sampler's model begins: a quarter of the budget at most, but one more than are known before.

    >>> start_up(12, 2), start_up(40, 4), start_up(100, 4)
    (3, 10, 10)
    """
    return max(min(trials // 4, MOST_AT_RANDOM), known + 1)


def make_sampler(name: Sampler, space: SearchSpace, seed: int, trials: int, known: int, earlier: int) -> BaseSampler:
    """A sampler for `trials` trials, of which `known` are known before, and `earlier` are in the study already.

    Its draws follow from the seed and the method: two methods of as many fields get other points. After each restart it
    gets another seed: the same one would suggest the same points again. A grid is worked through in one order, and the
    study tells how far that came.
    """
    method = ", ".join(map(str, space.methods))
    fresh = _seed(seed, f"sampler for {method}", earlier)
    begin = start_up(trials, known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":
            # By groups: fields that act in the same trials are modelled together.
            return TPESampler(n_startup_trials=begin, multivariate=True, group=True, seed=fresh)
        if name == "gp":
            return GPSampler(n_startup_trials=begin, deterministic_objective=True, seed=fresh)
        if name == "cmaes":
            return CmaEsSampler(
                n_startup_trials=begin, consider_pruned_trials=True, warn_independent_sampling=False, seed=fresh
            )
        if name == "qmc":
            others = RandomSampler(seed=fresh)
            return QMCSampler(scramble=True, seed=fresh, independent_sampler=others, warn_independent_sampling=False)
        if name == "random":
            return RandomSampler(seed=fresh)
        return _Grid(grid(space, trials), seed=_seed(seed, f"sampler for {method}"))


def _seed(seed: int, purpose: str, *counters: int) -> int:
    return int(generator(seed, purpose, *counters).integers(2**31))


def grid(space: SearchSpace, trials: int) -> dict[str, list]:
    """Values of each field whose combinations are no more than `trials`, if two of each range allow it.

    All of a choice; of a range as many as fit, at equal distances, with both ends.

    >>> space = SearchSpace({}, {"loss.focus": {"uniform": [0, 4]}, "model.fusion": {"choice": ["concat", "sum"]}})
    >>> grid(space, 6)
    {'loss.focus': [0.0, 2.0, 4.0], 'model.fusion': ['concat', 'sum']}
    """
    points = 2
    values = _grid(space, points)
    while math.prod(map(len, values.values())) < trials:
        points += 1
        finer = _grid(space, points)
        if math.prod(map(len, finer.values())) > trials or finer == values:
            break
        values = finer
    return values


def _grid(space: SearchSpace, points: int) -> dict[str, list]:
    return {path: _points(*distribution(path, entry, "space"), points) for path, entry in space.space.items()}


def _points(name: str, arguments: list, points: int) -> list:
    if name == "choice":
        return arguments
    low, high, *step = arguments
    whole = name.endswith("int")
    if whole and not step:
        high -= 1
    shares = [i / (points - 1) for i in range(points)]
    if "log" in name:
        values = [low * (high / low) ** share for share in shares]
    else:
        values = [low + (high - low) * share for share in shares]
    if step:
        values = [low + step[0] * round((value - low) / step[0]) for value in values]
    values = (
        [round(value) for value in values] if whole else [min(max(value, low), high) for value in map(float, values)]
    )
    return list(dict.fromkeys(values))


class _Grid(GridSampler):
    """Optuna's ends the loop of Study.optimize when it is through, of which there is none here."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: list[float] | None) -> None:
        """Nothing: trials that come again are answered from the study, which ends the search."""
