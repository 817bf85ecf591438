"""The plain trials that a sweep begins with are its scoring trainings: their scores are pooled to one history.

While they train no other trial that wants the history is started. Of each that fails another takes the place, up to
twice as many in all; then what has come to its end is pooled, and if that is none each trial trains its own.
"""

from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raygap.config import TrialConfig
from raygap.data.store import Store
from raygap.methods import find_method
from raygap.patience import patiently
from raygap.schema import from_mapping, to_mapping
from raygap.search.known import Start, as_trial, plain_known
from raygap.search.plan import Plan
from raygap.search.space import own_fields
from raygap.search.study import TRIED_AGAIN
from raygap.tracking.run_folder import ANSWERED, PLAIN, fields_of, trial_folder
from raygap.training.histories import FOLDER, find_pool, pool_key, pool_missing, wants_history, write_pool
from raygap.training.trunk import SharedWarmups

POOL = "history_pool"
"""In the study, once the history is settled: its `key`, empty if there is none, and the `trials` that it is made of."""


def pooled_trials(study: optuna.Study) -> list[int]:
    """Numbers of the trials that a study's history is made of; empty if it has none."""
    return study.user_attrs.get(POOL, {}).get("trials", [])


def pool_fields(study: optuna.Study) -> dict[str, Any]:
    """What a configuration names a study's history by; empty if there is none."""
    key, trials = study.user_attrs.get(POOL, {}).get("key"), pooled_trials(study)
    return {"history.pool": key, "history.runs": len(trials)} if key else {}


class Pool:
    """The history of a sweep's trials, as soon as there is one."""

    def __init__(
        self, plan: Plan, study: optuna.Study, folder: Path, store: Store, shared: SharedWarmups | None
    ) -> None:
        """`folder` is the run's; beside the `shared` warm-ups a copy is kept, for later runs there.

        Raises UserError if the plan holds a history fixed that is not there.
        """
        self.plan, self.study, self.folder, self.shared = plan, study, folder.resolve(), shared
        self.store_key, self.copies = store.header["key"], plan.copies(store.path)
        space = plan.search_space
        key, kept = space.start("history.pool"), self.copies.folder if self.copies else None
        wanted = key and "history" in space.values("gap.source")
        if wanted and patiently(partial(find_pool, key, self.folder, kept)) is None:
            raise pool_missing(key, self.folder)

    @property
    def settled(self) -> bool:
        """No trial need wait any longer."""
        return not self.plan.pool or POOL in self.study.user_attrs

    def wanted(self, own: Mapping[str, Any]) -> bool:
        """Whether a trial of these fields has a history, and names none itself."""
        if not self.plan.pool:
            return False
        config = self._config(own)
        return wants_history(config, find_method(config.method)) and not config.history.pool

    def fields(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial of these fields is to set, so that its configuration names the history that it has."""
        return pool_fields(self.study) if self.wanted(own) else {}

    def spares(self, number: int) -> bool:
        """Whether a trial is to come to its end, as its scores are waited for."""
        return not self.settled and bool(self.study.get_trials(deepcopy=False)[number].user_attrs.get(PLAIN))

    def tend(self) -> Start | None:
        """Pool the trials as soon as enough have ended; a plain trial to be tried in place of one that gave no scores.

        To be called again and again. Raises OSError if the history cannot be written.
        """
        if self.settled:
            return None
        trials = [trial for trial in self.study.get_trials(deepcopy=False) if PLAIN in trial.user_attrs]
        again = self.study.user_attrs.get(TRIED_AGAIN, 0)
        tried = [t for t in trials if t.number >= again or t.state != TrialState.FAIL]
        coming = [t for t in tried if not t.state.is_finished()]
        whole = [t for t in tried if t.state == TrialState.COMPLETE and ANSWERED not in t.user_attrs]
        given_up = not coming and len(tried) >= 2 * self.plan.pool
        if len(whole) >= self.plan.pool or given_up:
            self._settle(whole[: self.plan.pool])
        elif len(whole) + len(coming) < self.plan.pool and len(tried) < 2 * self.plan.pool:
            space = self.plan.search_space
            return as_trial(next(islice(plain_known(space), len(trials), None)), space, space.start("seed"))
        return None

    def _settle(self, members: list[FrozenTrial]) -> None:
        trainings = [training for trial in members for training in self._trainings(trial)]
        key = pool_key([config for config, _ in trainings], self.store_key) if trainings else ""
        if key:
            patiently(partial(self._write, f"{key}.parquet", [place for _, place in trainings]))
        self.study.set_user_attr(POOL, {"key": key, "trials": [trial.number for trial in members]})

    def _trainings(self, trial: FrozenTrial) -> list[tuple[TrialConfig, Path]]:
        """Those of all seeds of a trial, each with its folder within the run's."""
        config, place = self._config(fields_of(trial)), trial_folder(Path(), trial.number)
        others = [
            (from_mapping(to_mapping(config) | {"seed": config.seed + number}), place / f"seed-{number}")
            for number in range(1, self.plan.seeds_per_trial)
        ]
        return [(config, place), *others]

    def _write(self, name: str, places: list[Path]) -> None:
        if self.copies:
            for place in places:
                self.copies.folder.at(place.as_posix()).pull(self.folder / place, ["ledger.parquet"])
        own, ledgers = self.folder / FOLDER, [self.folder / place / "ledger.parquet" for place in places]
        write_pool(ledgers, own / name)
        if self.copies:
            self.copies.folder.at(FOLDER).push(own, [name])
            if self.shared and name not in (beside := self.copies.folder.at("..", FOLDER)).files():
                beside.push(own, [name])
        elif self.shared and not (self.shared.folder.with_name(FOLDER) / name).exists():
            write_pool(ledgers, self.shared.folder.with_name(FOLDER) / name)

    def _config(self, own: Mapping[str, Any]) -> TrialConfig:
        return from_mapping(own_fields(self.plan.fixed, own))
