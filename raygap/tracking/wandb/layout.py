"""How a sweep lies in W&B: what writes it, what reads it back and the report name things by this.

A sweep is a group of runs in a project. Each trial is a run of job type "trial": its configuration is the run's, beside
the key FACTS; its summary has best_val_accuracy, trial_state ("complete", "pruned" or "fail") and, under "best/", the
metrics of the selected epoch. The test of the chosen configuration is one run of job type "test". A comparison of
methods is one run of job type "comparison"; each method's sweep is a group of its own.
"""

import json
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from raygap.errors import UserError
from raygap.tracking.run_folder import write_text

Mode = Literal["online", "offline", "disabled"]
PROJECT = "raygap"
"""Where sweeps go without --wandb-project and WANDB_PROJECT."""
TRIAL, TEST, COMPARISON = "trial", "test", "comparison"
"""Job types."""
FACTS = "raygap"
"""Key in a run's configuration for what is no field of the trial's: sweep, trial, dataset, what made the run."""
STATE, SELECTED = "trial_state", "best/"
VALUE = "best_val_accuracy"
_NOTE = "wandb.json"
_SECTIONS = re.compile(r"^(train|val|test|gap|mixture)_")


@dataclass
class Note:
    """What a run folder remembers of its sweep in W&B. `id` never changes, so that resumed trials find their runs."""

    id: str
    group: str
    project: str
    entity: str | None = None
    report: str | None = None
    """Id of the published report."""

    def run_id(self, number: int, job: str = TRIAL) -> str:
        """Of a trial, or of the test of its configuration."""
        return f"{self.id}-{number:04d}" if job == TRIAL else f"{self.id}-{job}-{number:04d}"


def read_note(folder: Path) -> Note | None:
    """None if the sweep was never logged. Raises UserError if the file is damaged."""
    file = folder / _NOTE
    try:
        return Note(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); delete it, and the sweep is logged anew") from None


def new_note(folder: Path, project: str) -> Note:
    """For a sweep that was never logged; the group is named after the folder, and like no other."""
    identity = secrets.token_hex(4)
    return Note(identity, f"{folder.resolve().name}-{identity}", project)


def write_note(folder: Path, note: Note) -> None:
    """Keep it in the run folder. Raises OSError."""
    write_text(folder / _NOTE, json.dumps(asdict(note), indent=1) + "\n")


def chart(metric: str) -> str:
    """Name of a metric in a run's history: W&B makes a section of charts of what stands before a slash.

    >>> chart("val_audio_accuracy"), chart("learning_rate")
    ('val/audio_accuracy', 'learning_rate')
    """
    return _SECTIONS.sub(r"\1/", metric)


def trial_fields(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's configuration, split into the trial's fields and raygap's facts (empty for a run of somebody else's)."""
    facts = config.get(FACTS)
    fields = {name: value for name, value in config.items() if name not in (FACTS, "_wandb")}
    return fields, facts if isinstance(facts, dict) else {}
