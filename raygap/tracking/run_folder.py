"""What lies where in a run folder, and the tables and YAML that people read.

sweep.yaml, study.journal   the plan and the Optuna study: from these two a sweep is resumed
trials.csv                  one row a trial
best.yaml                   the best configuration, as `raygap train --config` takes it
spoiled.csv                 training clips that are probably spoiled, by kind; --exclude takes it
figures/, report.html       what to look at
trials/0007/                config.yaml, metrics.parquet, ledger.parquet; best.pt if it is among the best trials
ensemble.json, soup.pt      with --keep-top: what of the best trials answers together, and the mean of their weights
baseline.yaml               the baseline at the same settings, where the best configuration was compared with one
guided.yaml                 the best guided configuration, where a plain one is the best
seeds/trial-0007/           the test of the best configuration and of its references: test.csv, failed.csv (seeds), a
                            folder a seed, and shuffled/, unimodal_losses/, joint/ with theirs
tune/                       Ray Tune's own files (TensorBoard opens them)
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raygap.errors import UserError
from raygap.provenance import FACTS, in_words, made_by
from raygap.storage import Storage
from raygap.tracking.objectives import VALUES, study_objectives

if TYPE_CHECKING:  # commands read the names below before they need Optuna
    import optuna
    from optuna.trial import FrozenTrial, TrialState

PLAN, JOURNAL, TRIALS, BEST = "sweep.yaml", "study.journal", "trials.csv", "best.yaml"
BASELINE, GUIDED, SPOILED = "baseline.yaml", "guided.yaml", "spoiled.csv"
TRIALS_FOLDER = "trials"
ENSEMBLE = "ensemble.json"
"""What validation chose of the trials whose weights are kept (--keep-top): see training/ensemble.py."""
COMPARISON = "comparison.yaml"
"""In a comparison's folder, beside the run folders of its methods."""
TEST, FAILED, REPORT = "test.csv", "failed.csv", "report.html"

# What the study notes of a trial, in its user attributes.
BESIDE = "set"
"""Fields that the trial sets beside the searched ones, over what the sweep holds fixed, by dotted path."""
KNOWN = "known"
"""Where its configuration is from, if it was known before the search."""
PLAIN = "plain"
"""True of a trial that does without the sweep's guided method. Of equals it is the better one."""
LEARNT = "learnt"
"""Which trial of an earlier study it is: something that the sampler knows, and no result of this sweep."""
ANSWERED = "answered"
"""Number of the trial that had the same configuration before, and answers for this one."""


def check_sweep(folder: Path) -> None:
    """Raise UserError unless a folder holds a sweep, or a part of one."""
    if not (folder / PLAN).exists() and not (folder / JOURNAL).exists():
        raise UserError(f"{folder}: holds no sweep (neither {PLAN} nor {JOURNAL} is there)")


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial keeps its files."""
    return folder / TRIALS_FOLDER / f"{number:04d}"


def own_trials(study: "optuna.Study", *states: "TrialState") -> list["FrozenTrial"]:
    """The sweep's trials, of these states or of all, by number.

    Without those that wait for their turn, that an earlier study lends, or that an equal one has answered for.
    """
    trials = study.get_trials(deepcopy=False, states=states or None)
    return [trial for trial in trials if is_own(trial)]


def is_own(trial: "FrozenTrial") -> bool:
    """Whether it is, or was, trained in this sweep."""
    return trial.state.name != "WAITING" and not {LEARNT, ANSWERED} & trial.user_attrs.keys()


def read_ensemble(folder: Path) -> dict[str, Any]:
    """What ensemble.json says in a run folder; empty if there is none. Raises UserError if it is damaged."""
    try:
        found = json.loads((folder / ENSEMBLE).read_text(encoding="utf-8"))
        parts = ("answer", "weights", "validation", "gains", "test", "correction", "about")
        return {name: found[name] for name in parts}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / ENSEMBLE}: cannot be read; delete it to have the single best answer") from None


def fields_of(trial: "FrozenTrial") -> dict[str, Any]:
    """What makes a trial's configuration its own: what it sets beside the searched fields, and what is suggested."""
    return {**trial.user_attrs.get(BESIDE, {}), **trial.params}


def rank(study: "optuna.Study") -> Callable[["FrozenTrial"], tuple[float, bool, int]]:
    """Key that is the largest for the best of complete trials: of equals the plain one, then the earliest."""
    sign = -1 if study_objectives(study)[0].lower else 1
    return lambda trial: (sign * trial.value, bool(trial.user_attrs.get(PLAIN)), -trial.number)


def best_trials(study: "optuna.Study", count: int) -> list["FrozenTrial"]:
    """The best complete trials, the best first; fewer if fewer are complete."""
    from optuna.trial import TrialState

    return sorted(own_trials(study, TrialState.COMPLETE), key=rank(study), reverse=True)[:count]


def best_trial(study: "optuna.Study") -> "FrozenTrial | None":
    """The best complete trial; None if none is complete."""
    from optuna.trial import TrialState

    return max(own_trials(study, TrialState.COMPLETE), key=rank(study), default=None)


def trial_rows(study: "optuna.Study") -> tuple[list[str], list[list[Any]]]:
    """Header and rows: state, value, epochs, seconds, error, source if known, and own fields of each trial, by number.

    epochs_reused of the epochs were not trained, but taken from a warm-up trained before.
    """
    trials = own_trials(study)
    names = list(dict.fromkeys(name for trial in trials for name in fields_of(trial)))
    told = ("epochs", "epochs_reused", "seconds", "error", KNOWN)
    first, *others = study_objectives(study)
    rows = [
        [trial.number, trial.state.name.lower(), trial.value]
        + [trial.user_attrs.get(VALUES, {}).get(objective.name) for objective in others]
        + [trial.user_attrs.get(name) for name in told]
        + [fields_of(trial).get(name) for name in names]
        for trial in trials
    ]
    columns = [objective.column for objective in (first, *others)]
    return ["trial", "state", *columns, *told, *names], rows


def write_trials(study: "optuna.Study", folder: Path) -> None:
    """trials.csv, of the same rows."""
    write_csv(folder / TRIALS, *trial_rows(study))


def write_best(folder: Path, config: dict[str, Any], about: str, name: str = BEST) -> None:
    """A configuration, headed by comment lines that say where it comes from and what made it."""
    header = "".join(f"# {line}\n" for line in (*about.splitlines(), f"Made by {in_words(made_by())}."))
    write_text(folder / name, header + yaml.safe_dump(config, sort_keys=False))


def with_facts(header: list[str], rows: list[list[Any]], made: list[dict[str, str]]) -> tuple[list[str], list[Any]]:
    """Header and rows of a table, with what made each row in columns of their own behind the others."""
    rows = [[*row, *(facts.get(name) for name in FACTS)] for row, facts in zip(rows, made, strict=True)]
    return [*header, *FACTS], rows


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write a table, whole or not at all; None is an empty cell."""
    partial = path.with_name(f".{path.name}")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    partial.replace(path)


def clean_trial(folder: Path, number: int, keep: bool, storage: Storage | None = None) -> None:
    """Once the study knows how a trial ended: drop what only a resumption needs, and its weights unless `keep`.

    Of a run that is kept in `storage` the rest is brought here.
    """
    files = trial_folder(folder, number)
    if storage:
        kept = storage.at(trial_folder(Path(), number).as_posix())
        there = [name for name in kept.files() if name.startswith("seed-") and name.endswith(".pt")]
        kept.delete(["checkpoint.pt", *([] if keep else ["best.pt"]), *there])
        kept.pull_all(files)
    of_seeds = [*files.glob("seed-*/*.pt"), *files.glob("seed-*/.*")]
    for leftover in (files / "checkpoint.pt", *files.glob(".*"), *([] if keep else [files / "best.pt"]), *of_seeds):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
