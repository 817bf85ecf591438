"""The study: an Optuna study in the run folder is the sweep's only memory; a killed sweep goes on from it."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain

from raygap.config import TrialConfig, flatten, load_yaml
from raygap.errors import UserError
from raygap.patience import patiently
from raygap.schema import from_mapping, to_mapping
from raygap.tracking.run_folder import JOURNAL, trial_folder, write_text

if TYPE_CHECKING:
    from raygap.search.scheduler import PatientASHA

METRIC = "best_val_accuracy"
"""What is maximised: validation accuracy of the selected epoch so far."""
TRIAL_NUMBER = "trial_number"
STUDY = "sweep"
"""Name of the study in its journal; not the folder's, which may be renamed."""
TRIED_AGAIN = "tried_again"
"""In the study: failed trials with a smaller number count no more, as all had failed and others take their places."""
_CREATE_STUDY, _CREATE_TRIAL = 0, 4
"""Codes in the journal, by Optuna."""
_NOT_RESUMED = "interrupted, and not gone on with: no longer in the plan, or in the search space"
_DEAD_IN_A_ROW = 10
"""Trials in a row that died without a result, after which a search gives up: no other would fare better."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_storage(journal: Path) -> JournalStorage:
    """The study's file, mended if a killed process left it half-written or locked, or a disk broke a line of it.

    The caller holds the run folder's own lock, so nobody else is writing. Raises UserError as mend_journal does.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    mend_journal(journal)
    # Not by the symbolic links of its default, which some file systems do not have.
    return JournalStorage(_Journal(str(journal), JournalFileOpenLock(str(journal))))


def mend_journal(journal: Path) -> str:
    """Take lines that cannot be read out of a study's file, and say so; what is half-written at its end goes unsaid.

    What follows counts trials by the lines that created them: where such a line is lost, an empty trial takes its
    place. Raises UserError where it cannot be told which were lost.
    """
    if not journal.exists():
        return ""
    content = journal.read_bytes()
    *lines, rest = content.split(b"\n")
    if rest:
        os.truncate(journal, len(content) - len(rest))
    entries = [_entry(line) for line in lines]
    broken = [number for number, entry in enumerate(entries) if entry is None]
    if not broken:
        return ""
    whole = [entry for entry in entries if entry]
    codes = [entry["op_code"] for entry in whole]
    lost = max((entry.get("trial_id", -1) + 1 for entry in whole), default=0) - codes.count(_CREATE_TRIAL)
    named = f"{journal}: {'lines' if len(broken) > 1 else 'line'} {', '.join(str(number + 1) for number in broken[:5])}"
    if _CREATE_STUDY not in codes or (lost > 0 and (lost != len(broken) or _CREATE_TRIAL not in codes)):
        raise UserError(f"{named} cannot be read, and what the others mean hangs on it; start another sweep")
    if lost > 0:
        created = next(entry for entry in whole if entry["op_code"] == _CREATE_TRIAL)
        entries = [entry or created for entry in entries]
    journal.with_name(f"{journal.name}.broken").write_bytes(content)
    write_text(journal, "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries if entry))
    return f"{named} cannot be read and was left out; as it was, the file is kept beside it, with .broken at its end"


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("op_code"), int) else None


class _Journal(JournalFileBackend):
    """Waits for a file system that refuses, and leaves no half lines behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As JournalFileBackend."""
        size = patiently(lambda: os.stat(self._file_path).st_size)

        def append() -> None:
            os.truncate(self._file_path, size)  # what an earlier try has left
            try:
                super(_Journal, self).append_logs(logs)
            except RuntimeError as error:  # Optuna's lock is gone with its folder
                raise OSError(f"{self._file_path}: {error}") from None

        patiently(append)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """As JournalFileBackend."""
        yield from patiently(lambda: list(super(_Journal, self).read_logs(log_number_from)))


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: complete, pruned, or failed and not tried again; by number."""
    first = study.user_attrs.get(TRIED_AGAIN, 0)
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    return [trial for trial in trials if trial.state != TrialState.FAIL or trial.number >= first]


def seconds_spent(study: optuna.Study, running: Iterable[float] = ()) -> float:
    """By all trials that ended, together, and by those that run, whose seconds are given; to a tenth."""
    ended = sum(trial.user_attrs.get("seconds", 0.0) for trial in finished_trials(study))
    return round(ended + sum(round(seconds, 1) for seconds in running), 1)


def check_store(study: optuna.Study, key: str) -> None:
    """Note which store the study's trials use. Raises UserError if earlier ones used another."""
    if study.user_attrs.setdefault("store", key) != key:
        raise UserError("the data or their preparation have changed since the sweep began; start another sweep")
    study.set_user_attr("store", key)


def check_resumed(folder: Path, source: str, config: TrialConfig, domains: dict[str, Domain], store_key: str) -> None:
    """Raise UserError unless a run folder's study can be gone on with: its plan may have been edited, its data moved.

    `source` names where the plan stands, `config` is that of check_space. More trials, another range of a number, and
    fields that are searched no more or only now do no harm.
    """
    journal = folder / JOURNAL
    storage = open_storage(journal) if journal.exists() else None
    if not storage or not optuna.get_all_study_names(storage):
        return
    study = optuna.load_study(study_name=STUDY, storage=storage)
    trials = study.get_trials(deepcopy=False)
    if study.user_attrs.get("store", store_key) != store_key:
        raise UserError(
            f"{folder}: the data or their preparation have changed since the sweep began; start another sweep, or give "
            "--root with the folder that the same data lie in now"
        )
    for path, distribution in OptunaSearch.convert_search_space(domains).items():
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
        before, now = flatten(load_yaml(noted)), flatten(to_mapping(config))
        for path in now.keys() & before.keys() - domains.keys() - trial.params.keys():
            if now[path] != before[path]:
                raise UserError(
                    f"{source}: fixed: {path} = {now[path]}, but trials of this sweep had {before[path]} and could not "
                    "be compared with others; set it back, or start another sweep"
                )
        break  # what the first had, all had


def _in_words(distribution: Any) -> str:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return f"a choice of {', '.join(map(str, distribution.choices))}"
    scale = " on a logarithmic scale" if distribution.log else ""
    kind = "whole numbers" if isinstance(distribution, optuna.distributions.IntDistribution) else "numbers"
    return f"{kind} from {distribution.low:g} to {distribution.high:g}{scale}"


def suggested_config(suggested: dict[str, Any], fixed: dict[str, Any]) -> TrialConfig:
    """The configuration of a trial: what the search suggests for it, over what the sweep holds fixed."""
    params = {path: value for path, value in suggested.items() if path != TRIAL_NUMBER}
    return from_mapping(fixed | params, f"trial {suggested[TRIAL_NUMBER]}")


def remember(scheduler: ASHAScheduler, trial_id: str, values: dict[int, float]) -> None:
    """Enter a trial's values by epoch into the rungs, which live in memory only, without a verdict."""
    for epoch, value in sorted(values.items()):
        scheduler._brackets[0].on_result(SimpleNamespace(trial_id=trial_id), epoch, value)


@dataclass
class _Spent:
    """Seconds that a trial took so far, in all its processes, also in those before the sweep was resumed."""

    seconds: float
    since: float
    """When it was last heard of, by time.monotonic()."""
    told: float | None = None
    """time_total_s of the last result: Tune tells some twice."""

    def hear(self, result: dict[str, Any]) -> None:
        """Add a result's seconds. Its time_total_s would not do: it counts anew in each process."""
        if result.get("time_total_s") != self.told:
            self.told = result["time_total_s"]
            self.seconds += result["time_this_iter_s"]
        self.since = time.monotonic()


class StudySearch(OptunaSearch):
    """Ray's OptunaSearch with a memory: it first hands out the trials that a killed sweep left running, under their
    old numbers, tells Optuna pruned and failed trials as such, and keeps what the summary needs in the study.
    """

    def __init__(self, space: dict[str, Domain], storage: JournalStorage, seed: int, epochs: int) -> None:
        super().__init__(
            self.convert_search_space(space),
            metric=METRIC,
            mode="max",
            study_name=STUDY,
            storage=storage,
        )
        self._epochs = epochs
        # Another seed after each restart: the same one would suggest the same points again.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(self.study.trials))
        self.scheduler: PatientASHA
        self.trial_seconds: float | None = None
        self._spent: dict[str, _Spent] = {}
        self._dead_in_a_row, self._cause = 0, ""
        self._interrupted = deque(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    @property
    def study(self) -> optuna.Study:
        """The Optuna study."""
        return self._ot_study

    def take_up(self, planned: int) -> int:
        """How many of `planned` trials are left. Interrupted ones among them, and no others, will be gone on with.

        The rest is told as failed: the sampler keeps away from the neighbourhood of trials that seem to be running.
        Where all that ended have failed, what failed them may be mended by now: others take their places.
        """
        ended = finished_trials(self.study)
        if ended and all(trial.state == TrialState.FAIL for trial in ended):
            self.study.set_user_attr(TRIED_AGAIN, ended[-1].number + 1)
        self._give_up([trial for trial in self._interrupted if not trial.params.keys() <= self._space.keys()])
        left = max(planned - len(finished_trials(self.study)), 0)
        self._give_up(list(self._interrupted)[left:])
        return left

    def _give_up(self, trials: list[FrozenTrial]) -> None:
        for trial in trials:
            optuna.trial.Trial(self.study, trial._trial_id).set_user_attr("error", _NOT_RESUMED)
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._interrupted.remove(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration by dotted path, and the trial's number in the study.

        Raises UserError if trials only die.
        """
        if self._dead_in_a_row >= _DEAD_IN_A_ROW:
            raise UserError(
                f"the last {_DEAD_IN_A_ROW} trials died without a result, so processes cannot start or work here; mend "
                f"that, and go on with --resume. The last one: {self._cause}"
            )
        if self._budget_is_spent():
            return self.FINISHED
        if self._interrupted and trial_id not in self._ot_trials:
            trial = optuna.trial.Trial(self.study, self._interrupted.popleft()._trial_id)
            for name, distribution in self._space.items():
                trial._suggest(name, distribution)  # what is already set stays; a kill may have left some unset
            self._ot_trials[trial_id] = trial
            # Rungs that the trial has passed are not put to it again.
            remember(self.scheduler, trial_id, trial.study.trials[trial.number].intermediate_values)
        params = super().suggest(trial_id)
        if params is None:
            return None
        trial = self._ot_trials[trial_id]
        self._spent[trial_id] = _Spent(trial.user_attrs.get("seconds", 0.0), time.monotonic())
        return {**params, TRIAL_NUMBER: trial.number}

    def _budget_is_spent(self) -> bool:
        running = [spent.seconds for trial_id, spent in self._spent.items() if trial_id not in self._completed_trials]
        return self.trial_seconds is not None and seconds_spent(self.study, running) >= self.trial_seconds

    def out_of_budget(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Tune stops a trial for which this is true: all trials once the budget of seconds is spent.

        Long trials would else get as much again as many of them run at a time. One whole training is granted: the one
        furthest along goes on while none is complete.
        """
        if not self._budget_is_spent():
            return False
        if self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return True
        running = [key for key in self._spent if key not in self._completed_trials]
        return trial_id != max(running, key=lambda key: self._epochs_of(key))

    def _epochs_of(self, trial_id: str) -> int:
        known = self.study._storage.get_trial(self._ot_trials[trial_id]._trial_id).intermediate_values
        return max(known, default=0)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note an epoch's value, once, though a resumed trial reports its first epochs again; and its seconds."""
        trial, spent = self._ot_trials[trial_id], self._spent[trial_id]
        self._dead_in_a_row = 0
        self._report(trial, result)
        spent.hear(result)
        trial.set_user_attr("seconds", round(spent.seconds, 1))  # for a sweep that goes on with it

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study: failed if the trial says so or died, pruned if it was stopped early, else complete."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial, spent, result = self._ot_trials[trial_id], self._spent[trial_id], result or {}
        if result:
            self._dead_in_a_row = 0
            spent.hear(result)
        elif error:
            self._dead_in_a_row += spent.told is None
            self._cause = self.scheduler.given_up[trial_id]
            spent.seconds += time.monotonic() - spent.since
        reason = result.get("error") or (self._cause if error else None)
        if not reason:
            self._report(trial, result)
        trial.set_user_attr("epochs", result.get("epoch", 0))
        trial.set_user_attr("epochs_reused", result.get("epochs_reused", 0))
        trial.set_user_attr("seconds", round(spent.seconds, 1))
        if reason or METRIC not in result:
            trial.set_user_attr("error", reason or "the trial ended without a result")
            self.study.tell(trial, state=TrialState.FAIL)
        elif result["epoch"] < self._epochs:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, result[METRIC])

    def _report(self, trial: optuna.trial.Trial, result: dict[str, Any]) -> None:
        value = result.get(METRIC, math.nan)
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        if not math.isnan(value) and result["epoch"] not in known:
            trial.report(value, result["epoch"])
