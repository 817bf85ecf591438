"""Trials as W&B holds them, to find the best among them."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from raygap.tracking.run_folder import PLAIN
from raygap.tracking.wandb.layout import SELECTED, STATE, VALUE, trial_fields


class Entry(NamedTuple):
    """A configuration as it was written, the value of the metric, where it is from, and of the trial its number, and
    whether it did without the sweep's guided method.
    """

    config: dict[str, Any]
    value: float | None
    where: str
    trial: int = 0
    plain: bool = False


def lower_is_better(metric: str) -> bool:
    """Of losses and gaps."""
    return "loss" in metric or "gap" in metric


def of_runs(runs: Iterator[tuple[str, dict[str, Any], dict[str, Any]]], metric: str) -> list[Entry]:
    """The complete trials among W&B runs, each given by where it is, its configuration and its summary."""
    key = metric if metric == VALUE else SELECTED + metric
    entries = []
    for where, config, summary in runs:
        fields, facts = trial_fields(config)
        value = summary.get(key)
        if facts and summary.get(STATE) == "complete" and isinstance(value, int | float) and not math.isnan(value):
            number = facts.get("trial", 0)
            plain = bool(facts.get(PLAIN))
            entries.append(Entry(fields, float(value), f"trial {number}, {where}", number, plain))
    return entries
