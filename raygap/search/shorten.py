"""The stages of a training that was made shorter, or whose stages are shares: as long in proportion, ranges too."""

import math
from typing import Any

from raygap.config import TrialConfig
from raygap.search.space import SearchSpace, ends

STAGES = ("warmup.epochs", "purify.epochs")


def shorten_stages(space: SearchSpace, given: dict[str, Any]) -> tuple[SearchSpace, str]:
    """The space with its stages as much shorter as `given`, which lies over it, makes the training; and a line on it.

    Only where they would leave no adaptive epoch, or where the space means them as shares (meant_for; then longer too,
    and without a line), and never a stage that `given` holds fixed. Lengths are rounded to whole epochs, of which a
    stage that has any keeps one as long as there is room; 0 stays 0. What is no whole number is left for check_space to
    name.
    """
    defaults = TrialConfig()
    own = space.fixed.get("epochs", defaults.epochs)
    epochs = given.get("epochs", own)
    lengths = {path: _lengths(path, space, given) for path in STAGES}
    # A stage that the space does not name has the default's length, which was meant for as many epochs as the default.
    named = space.meant_for or own
    meant_for = {path: named if path in space.fixed | space.space else defaults.epochs for path in STAGES}
    if not all(_whole(number) for number in (own, epochs, *lengths["warmup.epochs"], *lengths["purify.epochs"])):
        return space, ""
    longest = {path: int(max(numbers)) for path, numbers in lengths.items()}
    shares = space.meant_for is not None
    changed = [path for path in STAGES if path not in given and (shares or meant_for[path] > epochs)]
    if not changed or (not shares and sum(longest.values()) < epochs):
        return space, ""
    room = max(epochs - 1 - sum(longest[path] for path in STAGES if path not in changed), 0)
    fixed, searched, words = dict(space.fixed), dict(space.space), []
    for path in changed:
        share, most = epochs / meant_for[path], room

        def scaled(length: float, share: float = share, most: int = most) -> int:
            return min(max(math.floor(length * share + 0.5), min(int(length), 1)), most)

        shorter = list(dict.fromkeys(map(scaled, lengths[path])))
        room -= max(shorter)
        if path in searched and _whole(fixed.get(path)):  # where its search begins
            fixed[path] = scaled(fixed[path])
        entry = searched.pop(path, None)
        if len(shorter) == 1:
            fixed[path] = shorter[0]
        elif "choice" in entry:
            searched[path] = {"choice": shorter}
        else:
            log = "log" in next(iter(entry)) and min(shorter) > 0
            searched[path] = {"lograndint" if log else "randint": [min(shorter), max(shorter) + 1]}
        if path in searched and "when" in entry:
            searched[path]["when"] = entry["when"]
        if longest[path]:
            words.append(f"{path} {_range(shorter)} (was {_range(lengths[path])})")
    before = max(meant_for[path] for path in changed)
    note = f"stages shortened in proportion to {epochs} epochs instead of {before}: {', '.join(words)}"
    return SearchSpace(fixed, searched, space.trials), "" if shares else note


def _lengths(path: str, space: SearchSpace, given: dict[str, Any]) -> list[Any]:
    """All of a choice, the shortest and longest of a range, or the one that is fixed or the default."""
    if path in given:
        return [given[path]]
    if path in space.space:
        return ends(path, space.space[path])
    return [space.fixed.get(path, getattr(TrialConfig(), path.split(".")[0]).epochs)]


def _whole(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and float(number).is_integer()


def _range(numbers: list[Any]) -> str:
    low, high = int(min(numbers)), int(max(numbers))
    return f"{low} to {high}" if high > low else str(low)
