"""One configuration for several data sets: the best of each search, trained on all the others, compared by validation.

A score is normalised by the best that the data set's own search found: 1 is as good as its own best. Chosen is the
candidate with the highest mean over the data sets.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from raygap.config import TrialConfig
from raygap.errors import UserError
from raygap.schema import acting, from_mapping, to_mapping
from raygap.search.journal import open_storage
from raygap.search.placement import place
from raygap.search.plan import AUTO, Plan
from raygap.search.pool import pool_fields
from raygap.search.ray_start import start_ray
from raygap.search.space import own_fields
from raygap.search.study import STUDY
from raygap.search.sweep import shared_warmups
from raygap.search.training import Training
from raygap.search.trainings import run_trainings
from raygap.tracking.run_folder import JOURNAL, fields_of, own_trials, rank, write_best, write_csv
from raygap.tracking.seed_results import trainings_bar
from raygap.tracking.wandb.layout import VALUE

SHARED = "shared.yaml"
CANDIDATES = 3
"""Best trials of each search that are tried on the other data sets."""


@dataclass(frozen=True)
class Swept:
    """A finished search: its plan, run folder and store."""

    plan: Plan
    folder: Path
    store: Path
    history: dict[str, Any] = field(default_factory=dict)
    """What its trials name their history by, if it was pooled."""


@dataclass
class Candidate:
    """A configuration by its own fields, by dotted path, and its validation accuracy by data set."""

    source: str
    trial: int
    params: dict[str, Any]
    accuracy: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    fields: list[str] = field(default_factory=list)
    """Those of its own search that could act in it."""

    def on(self, search: Swept) -> dict[str, Any]:
        """Its fields on a data set; a history that was pooled on one says nothing of the clips of another."""
        if "history.pool" not in self.params:
            return self.params
        return {path: v for path, v in self.params.items() if not path.startswith("history.")} | search.history

    def score(self, best: dict[str, float]) -> float:
        """Mean normalised score; a data set on which it could not be trained counts 0."""
        return sum(self.accuracy.get(name, 0.0) / value for name, value in best.items()) / len(best)


def find_shared(swept: list[Swept], folder: Path, concurrency: int | None) -> tuple[Candidate, dict[str, float]]:
    """The candidate with the best mean normalised score, and each data set's own best validation accuracy.

    Writes shared.yaml, the whole configuration, into each data set's run folder, and shared.csv, all candidates, into
    `folder`. What was trained there before is not trained again. Raises UserError if a search has no complete trial.
    """
    candidates, best, swept = [], {}, list(swept)
    for number, search in enumerate(swept):
        study = optuna.create_study(
            study_name=STUDY, storage=open_storage(search.folder / JOURNAL), load_if_exists=True
        )
        ended = own_trials(study, TrialState.COMPLETE)
        if not ended:
            raise UserError(f"{search.folder}: no trial is complete, so there is nothing to share")
        ended.sort(key=rank(study), reverse=True)
        swept[number] = replace(search, history=pool_fields(study))
        name = search.plan.dataset
        best[name] = ended[0].value
        for trial in ended[:CANDIDATES]:
            own = fields_of(trial)
            fields = acting(own, from_mapping(own_fields(search.plan.fixed, own)))
            candidates.append(Candidate(name, trial.number, own, {name: trial.value}, fields=fields))
    folder.mkdir(parents=True, exist_ok=True)
    start_ray()
    waiting: dict[tuple[int, str], Training] = {}
    for number, candidate in enumerate(candidates):
        for search in swept:
            name = search.plan.dataset
            if name == candidate.source:
                continue
            try:
                config = from_mapping(
                    own_fields(search.plan.fixed, candidate.on(search)), f"the configuration on {name}"
                )
            except UserError as error:  # stages longer than this data set's epochs, for example
                candidate.failed[name] = str(error)
                continue
            run = f"shared/{candidate.source}-{candidate.trial:04d}-on-{name}"
            copies = search.plan.copies(search.store)
            trunk = shared_warmups(search.plan, search.folder, copies)
            copies = copies and copies.at("..", run)
            waiting[number, name] = Training(config, search.store, (folder / run).resolve(), trunk, copies)
    plans = {search.plan.dataset: search.plan for search in swept}
    for (number, name), found in _validate(waiting, plans, concurrency).items():
        if isinstance(found, str):  # one that cannot be trained there ends no search
            candidates[number].failed[name] = found
        else:
            candidates[number].accuracy[name] = found
    candidates.sort(key=lambda candidate: -candidate.score(best))
    _write(swept, folder, candidates, best)
    return candidates[0], best


def print_shared(title: str, chosen: Candidate, best: dict[str, float]) -> None:
    """What the shared configuration is, and what it costs each data set."""
    print(f"{title}shared by {', '.join(best)}: from {chosen.source}, trial {chosen.trial}")
    for path, value in ((path, chosen.params[path]) for path in chosen.fields):
        print(f"  {path}: {value:.4g}" if isinstance(value, float) else f"  {path}: {value}")
    for name, own in best.items():
        if name in chosen.accuracy:
            loss = own - chosen.accuracy[name]
            print(f"  {name}: validation {chosen.accuracy[name]:.4f}, own best {own:.4f}, loss {loss:.4f}")
        else:
            print(f"  {name}: {chosen.failed[name]}")


def _validate(
    waiting: dict[tuple[int, str], Training], plans: dict[str, Plan], concurrency: int | None
) -> dict[tuple[int, str], float | str]:
    """Validation accuracy of the selected epoch of each training, or why it has none; `plans` by data set."""
    alike: dict[Any, dict[tuple[int, str], Training]] = {}
    for key, training in waiting.items():
        plan = plans[key[1]]
        asked = (
            training.config.compute.workers,
            plan.cpus_per_worker,
            None if plan.gpus_per_worker == AUTO else plan.gpus_per_worker,
        )
        alike.setdefault(asked, {})[key] = training
    found: dict[tuple[int, str], float | str] = {}
    for (_, cpus, gpus), trainings in alike.items():
        placement = place(next(iter(trainings.values())).config, concurrency, cpus, gpus)
        epochs = sum(training.config.epochs for training in trainings.values())
        title = f"training {len(trainings)} candidates"
        with trainings_bar(Console(stderr=True), title, epochs, lambda key: f"candidate {key[0]} on {key[1]}") as bar:
            rows, failed = run_trainings(trainings, placement, bar)
        found |= {key: row[VALUE] for key, row in rows.items()} | failed
    return found


def _write(swept: list[Swept], folder: Path, candidates: list[Candidate], best: dict[str, float]) -> None:
    chosen = candidates[0]
    for search in swept:
        name = search.plan.dataset
        if name in chosen.accuracy:
            config: TrialConfig = from_mapping(own_fields(search.plan.fixed, chosen.on(search)))
            about = (
                f"Shared by {', '.join(best)}: mean normalised score {chosen.score(best):.4f}; "
                f"from {chosen.source}, trial {chosen.trial}.\n"
                f"Validation accuracy here {chosen.accuracy[name]:.4f}, own best {best[name]:.4f}."
            )
            write_best(search.folder, to_mapping(config), about, SHARED)
    fields = list(dict.fromkeys(path for candidate in candidates for path in candidate.params))
    header = ["source", "trial", "mean_normalised_score", *(f"val_accuracy_{name}" for name in best), "failed", *fields]
    rows = [
        [candidate.source, candidate.trial, candidate.score(best)]
        + [candidate.accuracy.get(name) for name in best]
        + ["; ".join(f"{name}: {why}" for name, why in candidate.failed.items())]
        + [candidate.params.get(path) for path in fields]
        for candidate in candidates
    ]
    write_csv(folder / "shared.csv", header, rows)
