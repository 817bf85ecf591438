"""Configurations that are known before a search: tried first, so that what is found is at least as good as they are.

Trial 0 has the defaults: each searched field as the data set's space holds it fixed beside its range, else the schema's
default, or what the range has nearest to it. Then come, for a method that treats clips apart, plain trials without it;
the published settings of the method on the data set, where there are any; and what the user gives. Where trials may
want a history the plain ones come first: it is pooled from them.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from raygap.config import flatten, load_yaml
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.rng import generator
from raygap.schema import check_known, field_paths, from_mapping, to_mapping
from raygap.search.presets import preset
from raygap.search.space import NOT_SEARCHED, SearchSpace, distribution, holds, own_fields
from raygap.training.check import check_trial

DEFAULTS = "defaults"
ROOM = 12
"""Trials from which a sweep has room for configurations that take a few of them."""
PLAIN_METHOD = "unimodal_losses"
"""What a guided method must beat on the same validation clips."""


@dataclass(frozen=True)
class Known:
    """A configuration by its own fields: searched ones that it does not have begin as in trial 0, or are `drawn`."""

    source: str
    fields: dict[str, Any]
    plain: bool = False
    drawn: bool = False


@dataclass(frozen=True)
class Start:
    """A known configuration as a trial of a space: what the sampler may know of it, and what it sets beside that."""

    source: str
    params: dict[str, Any]
    beside: dict[str, Any]
    plain: bool


def plain_trials(trials: int, pooled: int = 0) -> int:
    """How many trials of a guided sweep go without its method: few of few, but two where there is room for them, and at
    most half of them for a history of so many.

    >>> [plain_trials(trials) for trials in (3, 4, 12)], [plain_trials(trials, pooled=3) for trials in (3, 4, 12)]
    ([0, 1, 2], [0, 2, 3])
    """
    few = 0 if trials < 4 else 1 if trials < ROOM else 2
    return max(few, min(pooled, trials // 2)) if few else 0


def plain_known(space: SearchSpace) -> Iterator[Known]:
    """Plain configurations without end, no two of which train alike: the first as trial 0, then drawn ones; where the
    space has no others, other seeds.
    """
    seen: list[dict[str, Any]] = []
    for number in count():
        source = f"{PLAIN_METHOD}, which treats all clips alike"
        source += f", {number + 1}" if number > 1 else ""
        for more in ({}, {"seed": space.start("history.seed") + number}):
            fields = {"method": PLAIN_METHOD, "purify.epochs": 0, **more}
            known = Known(source, fields, plain=True, drawn=number > 0)
            start = as_trial(known, space, space.start("seed"))
            if (own := start.beside | start.params) not in seen:
                break
        seen.append(own)
        yield known


def wants_pool(known: Iterable[Known], space: SearchSpace) -> bool:
    """Whether trials of a sweep may have a history, and none is named for them."""
    sources = [*space.values("gap.source"), *(one.fields.get("gap.source") for one in known)]
    return "history" in sources and not space.start("history.pool")


def known_before(
    dataset: str,
    method: str,
    space: SearchSpace,
    held: Iterable[str],
    trials: int,
    first: Iterable[str],
    also: Mapping[str, Any] | None = None,
) -> tuple[Known, ...]:
    """What a sweep of a method, or preset of one, on a data set begins with.

    `held` are the fields that its user holds fixed, which no known configuration changes; `first` the sources that the
    user gives; `also` what is tried beside the defaults, and beside the plain trial. Raises UserError for a source that
    cannot be read, or whose configuration does not lie in the space.
    """
    known = [Known(DEFAULTS, {})]
    other = _of_a_trial(dict(also or {}), held)
    if other:
        known.append(Known(f"{DEFAULTS}, but {', '.join(f'{path}={value}' for path, value in other.items())}", other))
    begun = len(known)
    if published := preset(method, dataset):
        known.append(Known(f"published: {published.source}", _of_a_trial(published.fields, held)))
    pooled = max(space.start("history.runs"), 2) if wants_pool(known, space) else 0
    if any(find_method(name).guided for name in space.methods) and (pooled or PLAIN_METHOD not in space.methods):
        plain = list(islice(plain_known(space), plain_trials(trials, pooled)))
        if other and trials >= ROOM:
            without = {"method": PLAIN_METHOD, "purify.epochs": 0}
            plain.append(Known(f"{known[1].source}, and plain: {PLAIN_METHOD}", other | without, plain=True))
        where = 0 if pooled else begun
        known[where:where] = plain
    # What cannot be trained here, as where the epochs are few, is nothing to begin with.
    known = [one for one in known if not _problem(one, space)]
    for source in first:
        given = Known(source, _of_a_trial(_read(source, space), held))
        for path, value in given.fields.items():
            if path in space.space and not holds(path, space.space[path], value):
                name, arguments = distribution(path, space.space[path], "space")
                raise UserError(
                    f"--first {source}: {path} = {value} lies outside of what is searched, {name} {arguments}; widen "
                    "that with --space, or leave it out"
                )
        if problem := _problem(given, space):
            raise UserError(f"--first {source}: {problem}")
        known.append(given)
    return tuple(known)


def _read(source: str, space: SearchSpace) -> dict[str, Any]:
    """The fields of a file, or the best configuration of what raygap's `best` reads."""
    from raygap.tracking.best_sources import find_best

    if not Path(source).is_file():
        return flatten(to_mapping(find_best(source)[0].config))
    fields = flatten(load_yaml(Path(source)))
    methods = [str(fields.get("method", space.methods[0]))]
    for path in fields:
        check_known(path, f"--first {source}", methods)
    return flatten(to_mapping(from_mapping(fields, source))) if "schema_version" in fields else fields


def _of_a_trial(fields: dict[str, Any], held: Iterable[str]) -> dict[str, Any]:
    """Without what all trials of a sweep have in common."""
    common = [path for path in fields for name in NOT_SEARCHED if path == name or path.startswith(f"{name}.")]
    return {path: value for path, value in fields.items() if path not in {*common, *held}}


def _problem(known: Known, space: SearchSpace) -> str:
    """Why a configuration cannot be a trial of the space; empty if it can."""
    start = as_trial(known, space, seed=0)
    try:
        config = from_mapping(own_fields(space.fixed, start.beside | start.params), "here")
        check_trial(config)
    except UserError as error:
        return str(error)
    return ""


def as_trial(known: Known, space: SearchSpace, seed: int) -> Start:
    """A known configuration as a trial of the space; fields outside of it are set beside the searched ones."""
    method = known.fields.get("method", space.start("method") or space.methods[0])
    fields = {path: value for path, value in known.fields.items() if path in field_paths(str(method))}
    inside = {path for path, value in fields.items() if path in space.space and holds(path, space.space[path], value)}
    beside = {path: value for path, value in fields.items() if path not in inside}
    random = generator(seed, f"known {known.source}")

    def draw(path: str) -> Any:
        if path in inside:
            return fields[path]
        entry = space.space[path]
        return _drawn(path, entry, random.random()) if known.drawn else _nearest(path, entry, space.start(path, method))

    params = space.ask(draw, beside)
    changed = {path: value for path, value in beside.items() if path not in space.fixed or space.fixed[path] != value}
    return Start(known.source, params, changed, known.plain)


def _nearest(path: str, entry: dict[str, Any], value: Any) -> Any:
    """What a distribution has nearest to a value; of names that it does not have the first."""
    if holds(path, entry, value):
        return value
    name, arguments = distribution(path, entry, "space")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return arguments[0]
    if name == "choice":
        numbers = [one for one in arguments if isinstance(one, int | float) and not isinstance(one, bool)]
        return min(numbers, key=lambda one: _distance(one, value)) if numbers else arguments[0]
    low, high, *step = arguments
    if name.endswith("int") and not step:
        high -= 1
    value = min(max(value, low), high)
    value = low + step[0] * round((value - low) / step[0]) if step else value
    return round(value) if name.endswith("int") else float(value)


def _distance(one: float, other: float) -> float:
    return abs(math.log(one / other)) if one > 0 and other > 0 else abs(one - other)


def _drawn(path: str, entry: dict[str, Any], share: float) -> Any:
    """The value at a share, in [0, 1), of what a distribution may give."""
    name, arguments = distribution(path, entry, "space")
    if name == "choice":
        return arguments[int(share * len(arguments))]
    low, high, *step = arguments
    if "log" in name:
        return _nearest(path, entry, low * (high / low) ** share)
    return _nearest(path, entry, low + share * (high - low + (step[0] if step else 0)))
