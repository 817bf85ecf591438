"""The study: an Optuna study in the run folder is the sweep's only memory; a killed sweep goes on from it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from raygap.config import TrialConfig, flatten, load_yaml
from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping
from raygap.search.journal import open_storage
from raygap.search.space import own_fields
from raygap.tracking.objectives import OBJECTIVE
from raygap.tracking.run_folder import JOURNAL, best_trial, fields_of, own_trials, trial_folder

METRIC = OBJECTIVE
"""What is maximised, of the selected epoch so far: validation accuracy, or what else the plan's metric says."""
TRIAL_NUMBER = "trial_number"
SEED_VALUES, EPOCHS_IN_ALL = "seed_values", "epochs_in_all"
"""Of a trial of several seeds: what those reached that have ended, in its results as METRIC, in the study as they are;
and the epochs of all of them."""
STUDY = "sweep"
"""Name of the study in its journal; not the folder's, which may be renamed."""
TRIED_AGAIN = "tried_again"
"""In the study: failed trials with a smaller number count no more, as all had failed and others take their places."""
ENDED = "ended"
"""In the study: why the search came to its end before all planned trials were done; empty if it did not."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: complete, pruned, or failed and not tried again; by number."""
    first = study.user_attrs.get(TRIED_AGAIN, 0)
    trials = own_trials(study, *FINISHED)
    return [trial for trial in trials if trial.state != TrialState.FAIL or trial.number >= first]


def without_improvement(study: optuna.Study) -> int:
    """How many trials behind the best one have ended, complete or stopped early."""
    best = best_trial(study)
    ended = own_trials(study, TrialState.COMPLETE, TrialState.PRUNED)
    return sum(trial.number > best.number for trial in ended) if best else 0


def seconds_spent(study: optuna.Study, running: Iterable[float] = ()) -> float:
    """By all trials that ended, together, and by those that run, whose seconds are given; to a tenth."""
    ended = sum(trial.user_attrs.get("seconds", 0.0) for trial in finished_trials(study))
    return round(ended + sum(round(seconds, 1) for seconds in running), 1)


def suggest(trial: Trial, path: str, distribution: BaseDistribution) -> Any:
    """The value that a trial has for a field, or is given now."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(path, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def taken_up(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """A trial that runs, to go on with it; Optuna has no public way to one that another process has asked for."""
    return Trial(study, trial._trial_id)


def check_store(study: optuna.Study, key: str) -> None:
    """Note which store the study's trials use. Raises UserError if earlier ones used another."""
    if study.user_attrs.setdefault("store", key) != key:
        raise UserError("the data or their preparation have changed since the sweep began; start another sweep")
    study.set_user_attr("store", key)


def read_study(folder: Path) -> optuna.Study | None:
    """That of a run folder which the caller holds; None if there is none yet."""
    journal = folder / JOURNAL
    storage = open_storage(journal) if journal.exists() else None
    if not storage or not optuna.get_all_study_names(storage):
        return None
    return optuna.load_study(study_name=STUDY, storage=storage)


def check_resumed(
    folder: Path, source: str, config: TrialConfig, distributions: dict[str, BaseDistribution], store_key: str
) -> None:
    """Raise UserError unless a run folder's study can be gone on with: its plan may have been edited, its data moved.

    `source` names where the plan stands, `config` is that of check_space. More trials, another range of a number, and
    fields that are searched no more or only now do no harm.
    """
    study = read_study(folder)
    if study is None:
        return
    trials = study.get_trials(deepcopy=False)
    if study.user_attrs.get("store", store_key) != store_key:
        raise UserError(
            f"{folder}: the data or their preparation have changed since the sweep began; start another sweep, or give "
            "--root with the folder that the same data lie in now"
        )
    for path, distribution in distributions.items():
        for before in (trial.distributions[path] for trial in trials if path in trial.distributions):
            try:
                check_distribution_compatibility(before, distribution)
            except ValueError:
                raise UserError(
                    f"{source}: space: {path}: was {_in_words(before)} when the sweep began, and its study cannot go "
                    f"over to {_in_words(distribution)}; set it back, or start another sweep"
                ) from None
    for trial in trials:
        noted = trial_folder(folder, trial.number) / "config.yaml"
        if trial.state == TrialState.FAIL or not noted.exists():
            continue
        had, now = flatten(load_yaml(noted)), flatten(to_mapping(config))
        for path in now.keys() & had.keys() - distributions.keys() - fields_of(trial).keys():
            if now[path] != had[path]:
                raise UserError(
                    f"{source}: fixed: {path} = {now[path]}, but trials of this sweep had {had[path]} and could not "
                    "be compared with others; set it back, or start another sweep"
                )
        break  # what the first had, all had


def _in_words(distribution: Any) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"a choice of {', '.join(map(str, distribution.choices))}"
    scale = " on a logarithmic scale" if distribution.log else ""
    kind = "whole numbers" if isinstance(distribution, IntDistribution) else "numbers"
    return f"{kind} from {distribution.low:g} to {distribution.high:g}{scale}"


def suggested_config(suggested: dict[str, Any], fixed: dict[str, Any]) -> TrialConfig:
    """The configuration of a trial: what the search suggests for it, over what the sweep holds fixed."""
    own = {path: value for path, value in suggested.items() if path != TRIAL_NUMBER}
    return from_mapping(own_fields(fixed, own), f"trial {suggested[TRIAL_NUMBER]}")
