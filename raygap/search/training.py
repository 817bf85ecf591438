"""One training, as it is sent to the processes that do it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raygap.config import TrialConfig
from raygap.storage import Copies

if TYPE_CHECKING:  # imported by processes that only wait for others, and need no torch
    from raygap.training.trunk import SharedWarmups


@dataclass(frozen=True)
class Training:
    """One training: of a trial, or, with `test`, to read the test split at its end."""

    config: TrialConfig
    store: Path
    folder: Path
    trunk: "SharedWarmups | None" = None
    copies: Copies | None = None
    test: bool = False
    metric: str = "accuracy"
    """What a trial is judged on (objectives.py)."""
    seeds: int = 1
    """Of a trial, one after the other."""
