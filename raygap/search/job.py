"""The whole line of a sweep after its data are prepared: trials, best configuration, test seeds, figures, report."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raygap.called import command
from raygap.config import TrialConfig, load_yaml
from raygap.data.store import Store
from raygap.extras import lacking
from raygap.patience import patiently
from raygap.schema import acting, from_mapping, to_mapping
from raygap.search.ensembles import drop_ensemble, keep_ensemble
from raygap.search.gpus import settled
from raygap.search.kept import keep_run
from raygap.search.plan import Plan
from raygap.search.pool import pooled_trials
from raygap.search.references import reference_configs
from raygap.search.seeds import train_seeds, write_results
from raygap.search.study import ENDED, finished_trials, seconds_spent
from raygap.search.sweep import plan_placement, run_trials, shared_warmups
from raygap.storage import Storage
from raygap.tracking.choice import choice_in_words, rival_of
from raygap.tracking.figures import check_gaps, draw_figures, gap_values
from raygap.tracking.objectives import in_words
from raygap.tracking.run_folder import (
    BASELINE,
    BEST,
    GUIDED,
    KNOWN,
    PLAIN,
    SPOILED,
    best_trial,
    best_trials,
    fields_of,
    trial_folder,
    write_best,
)
from raygap.tracking.seed_results import Reporter, SeedResults
from raygap.tracking.spoiled import suspects, trainings_of
from raygap.tracking.wandb.callback import SweepLog, sweep_log
from raygap.tracking.worth import CHOSEN, Worth
from raygap.training.final import keep_correction


@dataclass(frozen=True)
class Outcome:
    """`best` is None as long as no trial is complete; `worth` is None if the search was interrupted, or no seeds asked.

    `choice`: by how much the best trial was chosen, in words; empty if there is nothing to say. `interrupted`: neither
    are all planned trials done nor is the time budget spent.
    """

    study: optuna.Study
    interrupted: bool
    best: FrozenTrial | None
    config: TrialConfig | None
    worth: Worth | None
    choice: str = ""
    about_gaps: list[str] = field(default_factory=list)
    about_ensemble: list[str] = field(default_factory=list)
    """What the best trials answer together (keep_top)."""

    @property
    def test(self) -> SeedResults | None:
        """The best configuration on the test split."""
        return self.worth.results[CHOSEN] if self.worth else None

    def best_fields(self) -> dict[str, Any]:
        """The best configuration's own fields, without those that cannot act in it."""
        own = fields_of(self.best)
        return {path: own[path] for path in acting(own, self.config)}

    def finished(self) -> int:
        """Trials that are complete, stopped early or failed."""
        return len(finished_trials(self.study))

    def about_epochs(self) -> str:
        """How many epochs the trials had, and how many of them were warm-up that was not trained again."""
        trials = [trial.user_attrs for trial in finished_trials(self.study)]
        epochs, reused = (sum(attrs.get(name, 0) for attrs in trials) for name in ("epochs", "epochs_reused"))
        scoring = sum(attrs.get("scoring_epochs", 0) for attrs in trials)
        line = f"{epochs} epochs in {len(trials)} trials, {reused} of them shared warm-up that was not trained again."
        if pooled := pooled_trials(self.study):
            line += f" The history is the scores of {len(pooled)} plain trials ({', '.join(map(str, pooled))})."
        return f"{line} Scoring trainings, for histories, took {scoring} epochs more." if scoring else line

    def failures(self) -> list[str]:
        """A line for each failed trial and each failed seed."""
        failed = [trial for trial in finished_trials(self.study) if trial.state == TrialState.FAIL]
        lines = [f"Trial {trial.number} failed: {trial.user_attrs.get('error')}" for trial in failed]
        for name, results in (self.worth.results if self.worth else {}).items():
            of = "" if name == CHOSEN else f" of {name}"
            lines += [f"Seed {seed}{of} failed: {why}" for seed, why in results.failed.items()]
        return lines


def run_sweep(
    plan: Plan,
    folder: Path,
    store: Path,
    concurrency: int | None,
    time_budget: float | None,
    report: Reporter,
    quiet: bool = False,
) -> Outcome:
    """Run (or go on with) a sweep in its folder. When the search is over, one configuration is read on test.

    `quiet` shows no progress of the trials; that of the test seeds goes to `report`.
    """
    copies = plan.copies(store)
    if copies:
        keep_run(folder, copies.folder)  # already now: from the plan and the study another machine goes on
    with sweep_log(folder, plan.dataset, plan.wandb, plan.wandb_project, plan.wandb_entity) as log:
        outcome = _search_and_test(plan, folder, store, concurrency, time_budget, report, log, quiet)
        if log and outcome.test and outcome.test.rows:
            figures = [folder / "figures" / name for name in ("gap.png", "curves.png")]
            log.test(outcome.best.number, outcome.config, outcome.worth, figures)
    if copies:
        keep_run(folder, copies.folder)
    return outcome


def _search_and_test(
    plan: Plan,
    folder: Path,
    store: Path,
    concurrency: int | None,
    time_budget: float | None,
    report: Reporter,
    log: SweepLog | None,
    quiet: bool,
) -> Outcome:
    began = time.monotonic()
    drop_ensemble(folder)
    study = run_trials(plan, folder, store, concurrency, time_budget, log, quiet)
    spent = time_budget is not None and time.monotonic() - began >= time_budget
    spent |= plan.trial_seconds is not None and seconds_spent(study) >= plan.trial_seconds
    spent |= bool(study.user_attrs.get(ENDED))
    interrupted = not spent and len(finished_trials(study)) < plan.trials
    best = best_trial(study)
    if best is None:
        outcome = Outcome(study, interrupted, None, None, None)
        _write_pictures(folder, outcome)
        return outcome
    files, copies = trial_folder(folder, best.number), plan.copies(store)
    if copies:
        for trial in best_trials(study, plan.keep_top):
            there = copies.folder.at(trial_folder(Path(), trial.number).as_posix())
            patiently(partial(there.pull_all, trial_folder(folder, trial.number)))
    config = from_mapping(load_yaml(files / "config.yaml"), str(files / "config.yaml"))
    judging = Store.open(store).rows("test" if config.protocol == "paper" else "val")
    choice = choice_in_words(study, bool(acting(["mixture.posterior"], config)), len(judging))
    write_best(folder, to_mapping(config), "\n".join([*_about(plan, study, best), *([choice] if choice else [])]))
    worth = None
    if not interrupted and plan.test_seeds:
        # Fresh seeds: the one the configuration was chosen with may have been a lucky one.
        seeds = [config.seed + plan.seeds_per_trial + i for i in range(plan.test_seeds)]
        placement = plan_placement(settled(plan, study), concurrency)
        place = f"seeds/trial-{best.number:04d}"
        kept, trunk = copies and copies.at(place), shared_warmups(plan, folder, copies)
        references = reference_configs(config, _rival(study, best, folder)) if plan.references else {}
        results = train_seeds(config, store, folder / place, seeds, placement, report, kept, trunk, references)
        worth = Worth(config.method, results)
        if worth.baseline:
            about = f"{worth.baseline} at the settings of {BEST}, which was compared with it. {worth.sentence}"
            write_best(folder, to_mapping(references[worth.baseline]), about, BASELINE)
        if worth.rival:
            about = f"The best guided trial; {BEST} is a plain one. {worth.sentence} {worth.advice}".rstrip()
            write_best(folder, to_mapping(references[worth.rival]), about, GUIDED)
    outcome = Outcome(study, interrupted, best, config, worth, choice)
    if plan.keep_top > 1 and not interrupted:
        _combine(plan, outcome, folder, store, worth)
    _list_spoiled(outcome, folder)
    _correct(outcome, files, store, copies.folder.at(files.relative_to(folder).as_posix()) if copies else None)
    _write_pictures(folder, outcome)
    return outcome


def _rival(study: optuna.Study, best: FrozenTrial, folder: Path) -> TrialConfig | None:
    """Where a plain trial was chosen, the best guided one: what the sweep's own method is worth is asked, too."""
    rival = rival_of(study, best) if best.user_attrs.get(PLAIN) else None
    file = rival and trial_folder(folder, rival.number) / "config.yaml"
    return from_mapping(load_yaml(file), str(file)) if file and file.exists() else None


def judged_on(plan: Plan) -> str:
    """What a trial's value is."""
    words = in_words(plan.metric, plan.fixed.get("protocol") == "paper")
    return words if plan.seeds_per_trial == 1 else f"{words}, mean of {plan.seeds_per_trial} seeds,"


def _about(plan: Plan, study: optuna.Study, best: FrozenTrial) -> list[str]:
    return [
        f"Best of {len(finished_trials(study))} trials on {plan.dataset}: trial {best.number}, "
        f"{judged_on(plan)} {best.value:.4f}.",
        *([f"Known before the search: {best.user_attrs[KNOWN]}."] if KNOWN in best.user_attrs else []),
        "Chosen on validation; the test split had no part in it."
        if plan.fixed.get("protocol") != "paper"
        else "PAPER PROTOCOL: trained on train and validation, chosen on TEST. The number flatters; it compares with "
        "tables made that way, and with nothing else.",
    ]


def _combine(plan: Plan, outcome: Outcome, folder: Path, store: Path, worth: Worth | None) -> None:
    """Have the best trials answer together where validation says so; test.csv gets what that reached on test."""
    try:
        lines, tested = keep_ensemble(plan, outcome.study, folder, Store.open(store), worth is not None)
        outcome.about_ensemble.extend(lines)
        if tested and worth:
            worth.results.update(tested)
            write_results(worth.results, folder / f"seeds/trial-{outcome.best.number:04d}")
    except Exception as error:  # as below
        outcome.about_ensemble.append(f"No ensemble: {type(error).__name__}: {error}")


def _list_spoiled(outcome: Outcome, folder: Path) -> None:
    """Leave the list of clips to look at; from better scores than the best trial's once the test seeds are trained."""
    try:
        suspects(trainings_of(folder, outcome.best.number), outcome.config.seed).write(folder / SPOILED)
    except Exception as error:  # as below
        outcome.about_gaps.append(f"No clips are listed as spoiled: {error}")


def _correct(outcome: Outcome, files: Path, store: Path, storage: Storage | None) -> None:
    """Leave in the best trial's weights what predict corrects its answers by, where that helps."""
    try:
        keep_correction(files / "best.pt", Store.open(store))
        if storage:
            patiently(lambda: storage.push(files, ["best.pt"]))
    except Exception as error:  # as below
        outcome.about_gaps.append(f"No correction of the decision layer was fitted: {type(error).__name__}: {error}")


def _write_pictures(folder: Path, outcome: Outcome) -> None:
    """Figures and report. No picture is worth the outcome of hours: what goes wrong is said beside it."""
    checks = None
    lack = lacking("report", "a report with figures")
    try:
        if outcome.best and outcome.config:
            files = trial_folder(folder, outcome.best.number)
            score, seed = outcome.config.gap.score, outcome.config.seed
            checks = check_gaps(gap_values(files, score), score, seed)
            outcome.about_gaps.extend(f"Gaps {moment}: {check.sentence}" for moment, check in checks.items())
            if not lack:
                draw_figures(files, score, seed, folder / "figures")
    except Exception as error:
        outcome.about_gaps.append(f"The figures could not be drawn: {type(error).__name__}: {error}")
    if lack:
        outcome.about_gaps.append(f"Not written: {lack}; then: {command('report', str(folder))}")
        return
    try:
        from raygap.tracking.report.page import write_report

        write_report(folder, checks)
    except Exception as error:
        outcome.about_gaps.append(f"The report could not be written: {type(error).__name__}: {error}")
