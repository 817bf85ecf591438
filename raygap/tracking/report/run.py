"""What a run folder holds, read part by part: one that is missing or damaged costs no other."""

import csv
from collections.abc import Container
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from raygap.config import TrialConfig, flatten, load_yaml
from raygap.data.clips import Split
from raygap.data.store import Store, store_folder
from raygap.errors import UserError
from raygap.imbalance.gaussians import DegenerateMixture
from raygap.provenance import FACTS
from raygap.schema import acting, field_paths, from_mapping
from raygap.tracking.choice import choice_in_words
from raygap.tracking.comparison_table import read_results, table
from raygap.tracking.objectives import Objective, in_words, study_objectives
from raygap.tracking.run_folder import FAILED, JOURNAL, PLAIN, PLAN, TEST, best_trial, fields_of, is_own, trial_folder
from raygap.tracking.seed_results import SeedResults
from raygap.tracking.spoiled import Suspects, suspects, trainings_of
from raygap.tracking.worth import CHOSEN, CONFIGURATION, Worth


class Absent(Exception):
    """A part of the run is not there, or not yet; the message is a sentence for the page."""


def best_checkpoint(run: Path) -> Path:
    """best.pt of the best trial in a run folder. Raises UserError if there is none."""
    try:
        return Run(run).files / "best.pt"
    except Absent as absent:
        raise UserError(f"{run}: {absent}") from None


class OwnTrials(optuna.Study):
    """A study whose trials are the sweep's own, to Optuna's pictures too."""

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, **others: Any
    ) -> list[FrozenTrial]:
        """As Optuna's."""
        return [trial for trial in super().get_trials(deepcopy, states, **others) if is_own(trial)]


class Searched(OwnTrials):
    """The same without plain trials, which the searched fields of the sweep's method do not concern."""

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, **others: Any
    ) -> list[FrozenTrial]:
        """As Optuna's."""
        trials = super().get_trials(deepcopy, states, **others)
        return [trial for trial in trials if not trial.user_attrs.get(PLAIN)]


def scored(source: Path) -> list[Path]:
    """Folders whose ledgers tell of the training clips of a run folder, or of a best.pt; empty if there are none."""
    if source.is_dir():
        return trainings_of(source, Run(source).best.number)
    return [source.parent] if (source.parent / "ledger.parquet").exists() else []


class Run:
    """A run folder that may be unfinished, at work, or damaged.

    Every property raises Absent, or the error that reading met. Nothing is written, and no lock is taken: a sweep may
    be at work in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def plan(self) -> dict[str, Any]:
        """sweep.yaml."""
        return load_yaml(self.folder / PLAN)

    @cached_property
    def study(self) -> optuna.Study:
        """The Optuna study; for reading only."""
        file = self.folder / JOURNAL
        if not file.exists() or not file.stat().st_size:  # Optuna would make one
            raise Absent("No trial has started yet.")
        # A line that is being written at this moment is left out by Optuna.
        try:
            storage = JournalStorage(JournalFileBackend(str(file)))
        except (ValueError, KeyError, AssertionError):  # a line that cannot be read, or one that hangs on it
            raise Absent(f"{JOURNAL} is damaged; going on with the sweep, by --resume, mends it.") from None
        names = optuna.get_all_study_names(storage)
        if not names:
            raise Absent("No trial has started yet.")
        return OwnTrials(names[0], storage)

    @cached_property
    def searched(self) -> optuna.Study:
        """The study without plain trials, for what can be said of the searched fields."""
        study, file = self.study, self.folder / JOURNAL
        return Searched(study.study_name, JournalStorage(JournalFileBackend(str(file))))

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials of the sweep's own, by number; at least one."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            raise Absent("No trial has started yet.")
        return trials

    @property
    def choice(self) -> str:
        """By how much the best trial was chosen, in words; empty where there is nothing to say."""
        split: Split = "test" if self.config["protocol"] == "paper" else "val"
        guided = bool(acting(["mixture.posterior"], from_mapping(self.config)))
        return choice_in_words(self.study, guided, len(self.store.rows(split)))

    def of_state(self, state: TrialState) -> list[FrozenTrial]:
        """The trials of a state, by number."""
        return [trial for trial in self.trials if trial.state == state]

    @property
    def best(self) -> FrozenTrial:
        """The best complete trial."""
        trials, best = self.trials, best_trial(self.study)
        if best is None:
            ended = [trial for trial in trials if trial.state.is_finished()]
            if ended and all(trial.state == TrialState.FAIL for trial in ended):
                raise Absent(f"No trial is complete: all {len(ended)} that ended have failed.")
            raise Absent("No trial is complete yet.")
        return best

    def acting(self, trial: FrozenTrial) -> list[str]:
        """A trial's own fields that could change anything in it; all, where its configuration cannot be read."""
        own = fields_of(trial)
        try:
            fields = flatten(self.plan["fixed"]) | own
            known = field_paths(fields.get("method", TrialConfig.model_fields["method"].default))
            config = from_mapping({path: value for path, value in fields.items() if path in known})
        except (UserError, KeyError, TypeError):
            return list(own)
        return acting(own, config)

    @cached_property
    def acting_often(self) -> dict[str, int]:
        """In how many complete trials each searched field could change anything; plain trials apart."""
        complete = self.searched.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        counts = dict.fromkeys((name for trial in complete for name in trial.params), 0)
        for trial in complete:
            for name in counts.keys() & self.acting(trial):
                counts[name] += 1
        return counts

    @property
    def files(self) -> Path:
        """Folder of the best trial."""
        return trial_folder(self.folder, self.best.number)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The best trial's configuration by dotted path, as it was written."""
        return flatten(load_yaml(self.files / "config.yaml"))

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What its trials are judged on."""
        return study_objectives(self.study)

    @property
    def judged_on(self) -> str:
        """What a trial's value is. If the plan cannot be read, only that it is one."""
        try:
            paper = self.plan["fixed"].get("protocol") == "paper"
        except Exception:
            return "value"
        return in_words(self.plan.get("metric", "accuracy"), paper)

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return flatten(self.plan["fixed"]).get("epochs", TrialConfig.model_fields["epochs"].default)

    @cached_property
    def metrics(self) -> dict[str, list[Any]]:
        """The best trial's metrics by name, a value an epoch."""
        return self._table("metrics.parquet").to_pydict()

    @cached_property
    def ledger(self) -> dict[str, np.ndarray]:
        """The best trial's ledger by column, a value a training clip."""
        table = self._table("ledger.parquet")
        return {name: table[name].to_numpy() for name in table.column_names}

    def _table(self, name: str) -> Any:
        file = self.files / name
        if not file.exists():
            raise Absent(f"{file.relative_to(self.folder)} is missing.")
        return pq.read_table(file)

    @property
    def test(self) -> SeedResults:
        """Test results of the best trial's configuration."""
        return self.worth.results[CHOSEN]

    @cached_property
    def worth(self) -> Worth:
        """The same beside those of its references."""
        results = results_in(self.folder / "seeds" / f"trial-{self.best.number:04d}")
        if not results:
            raise Absent("The test split has not been read: that comes last, when the search is over.")
        try:
            method = self.config["method"]
        except (UserError, KeyError):  # the trial's files are gone
            method = "the method"
        return Worth(method, results)

    @cached_property
    def suspects(self) -> Suspects:
        """Training clips that are probably spoiled."""
        try:
            return suspects(trainings_of(self.folder, self.best.number), self.config["seed"])
        except FileNotFoundError:
            raise Absent(f"{(self.files / 'ledger.parquet').relative_to(self.folder)} is missing.") from None
        except DegenerateMixture as reason:
            raise Absent(f"Which clips are spoiled cannot be told: {reason}.") from None

    @property
    def comparison(self) -> list[list[str]]:
        """Header and rows of the comparison that this run is a part of; empty if it is none, or none is done yet."""
        results = read_results(self.folder.resolve().parent)
        if self.folder.resolve().name.removesuffix("-paper") not in [result.method for result in results]:
            return []
        return table(results)

    @cached_property
    def store(self) -> Store:
        """The packed clips."""
        key = self.study.user_attrs.get("store")
        if not key:
            raise Absent("The study does not say which store its trials read.")
        folder = store_folder(Path(self.plan["cache"]), self.plan["dataset"], key)
        if not folder.exists():
            raise Absent("The store of the clips is not where it was: no pictures.")
        return Store.open(folder)


def results_in(folder: Path) -> dict[str, SeedResults]:
    """What train_seeds has written there, CHOSEN first; empty if it has written nothing."""
    rows, failed = _rows(folder / TEST), _rows(folder / FAILED)
    if not rows and not failed:
        return {}
    words = ("seed", "protocol", CONFIGURATION, *FACTS)
    results: dict[str, SeedResults] = {CHOSEN: SeedResults({}, {})}
    for row in [*rows, *failed]:
        name, seed = row.get(CONFIGURATION) or CHOSEN, int(row["seed"])
        found = results.setdefault(name, SeedResults({}, {}))
        if "reason" in row:
            found.failed[seed] = row["reason"]
        else:
            numbers = {key: float(value) for key, value in row.items() if key not in words and value}
            found.rows[seed] = numbers
    paper = any(row.get("protocol") == "paper" for row in rows)
    return {name: replace(found, protocol="paper" if paper else "validation") for name, found in results.items()}


def _rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(newline="", encoding="utf-8"))) if file.exists() else []
