"""What W&B is told of a sweep: every epoch of every trial, how each ended, and the test of the chosen configuration."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS

from raygap.config import TrialConfig
from raygap.errors import UserError, first_line
from raygap.extras import lacking
from raygap.imbalance.gap import GapScore, score_range
from raygap.private import without_passwords
from raygap.provenance import made_by
from raygap.schema import to_mapping
from raygap.tracking.comparison_table import MethodResult, table
from raygap.tracking.objectives import OBJECTIVE, VALUES
from raygap.tracking.run_folder import KNOWN, PLAIN
from raygap.tracking.seed_results import TEST_METRICS, Interval
from raygap.tracking.wandb import layout
from raygap.tracking.wandb.process import STOPPED, logged_in
from raygap.tracking.wandb.writer import NOT_OURS, Writer
from raygap.tracking.worth import CHOSEN, Worth

TUNES_OWN = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, "checkpoint_path", "done", "experiment_tag"}
"""Keys that Tune adds to a trial's results; some tell of machines and their addresses."""


MODES: dict[str, layout.Mode | None] = {"": None, "online": "online", "run": "online", "offline": "offline"}
MODES |= {"dryrun": "offline", "disabled": "disabled"}
"""What WANDB_MODE may say; two of these are the client's old words."""
YES, NO = ("1", "true", "t", "yes", "y", "on"), ("", "0", "false", "f", "no", "n", "off")


def asked_mode(mode: layout.Mode | None) -> layout.Mode | None:
    """What --wandb says, else what WANDB_DISABLED and WANDB_MODE do; None: online with a key, else offline."""
    if mode:
        return mode
    disabled, said = (os.environ.get(name, "").strip() for name in ("WANDB_DISABLED", "WANDB_MODE"))
    if disabled.lower() not in (*YES, *NO):
        raise UserError(f"WANDB_DISABLED={disabled}: expected true or false")
    if disabled.lower() in YES:
        return "disabled"
    if said.lower() not in MODES:
        raise UserError(f"WANDB_MODE={said}: expected online, offline or disabled")
    return MODES[said.lower()]


def check_login(mode: layout.Mode | None, project: str | None = None, entity: str | None = None) -> None:
    """Raise UserError for what W&B would refuse once the sweep runs: names, variables, a key that is none or missing.

    `project` and `entity` are those of the options.
    """
    mode = asked_mode(mode)
    if mode == "disabled":
        return
    if lack := lacking("wandb", "W&B's log"):
        if mode:
            raise UserError(f"--wandb {mode}: {lack}; or --wandb disabled")
        _say(f"not logged: {lack}")
        return
    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and name not in NOT_OURS}
    _check_names(
        {"WANDB_PROJECT": given.get("WANDB_PROJECT"), "--wandb-project": project}, r".*\S.*", "a project's name"
    )
    entities = {"WANDB_ENTITY": given.get("WANDB_ENTITY"), "--wandb-entity": entity}
    _check_names(entities, r"[^\s/\\#?%:]+", "the name of a team or user, without the project's")
    for name, value in given.items():
        _check_setting(name, name, value)
    if project:
        _check_setting("--wandb-project", "WANDB_PROJECT", project)
    asks_key = mode == "online" or (mode is None and "WANDB_API_KEY" in given)
    if asks_key and not _has_key():
        raise UserError("--wandb online: no key of W&B; run `wandb login` or set WANDB_API_KEY, or log offline")


def _has_key() -> bool:
    import wandb

    try:
        return logged_in()
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"W&B's key, of WANDB_API_KEY or a netrc file: {first_line(error)}") from None


def _check_names(given: dict[str, str | None], pattern: str, expected: str) -> None:
    for source, name in given.items():
        if name and not re.fullmatch(pattern, name):
            raise UserError(f"{source} {name!r}: expected {expected}")


def _check_setting(source: str, variable: str, value: str) -> None:
    """By the client's own rules, which it keeps for when a run begins."""
    import wandb

    try:
        wandb.Settings().update_from_env_vars({variable: value})
    except Exception as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
        shown = "" if "KEY" in variable else f" {value!r}"
        raise UserError(f"{source}{shown}: {reason}; mend it, or leave it out") from None


@contextmanager
def sweep_log(
    folder: Path, dataset: str, mode: layout.Mode | None, project: str | None, entity: str | None
) -> Iterator["SweepLog | None"]:
    """A SweepLog, ended within bounds; None if W&B is disabled.

    `mode` None: as asked_mode says; offline is in the run folder. `project` and `entity` None: as before, or as
    WANDB_PROJECT and WANDB_ENTITY say.
    """
    mode = asked_mode(mode)
    if mode == "disabled" or lacking("wandb", ""):
        yield None
        return
    log = SweepLog(folder, dataset, mode, project, entity)
    try:
        yield log
    finally:
        log.writer.close()


class SweepLog:
    """A sweep as W&B sees it. Nothing here waits or raises; what is not known to W&B yet is told by another process."""

    def __init__(
        self, folder: Path, dataset: str, mode: layout.Mode | None, project: str | None, entity: str | None
    ) -> None:
        self.folder, self.dataset, self.made_by = folder, dataset, made_by()
        project = project or os.environ.get("WANDB_PROJECT")
        self.note = layout.read_note(folder) or layout.new_note(folder, project or layout.PROJECT)
        self.note.project = project or self.note.project
        self.note.entity = entity or os.environ.get("WANDB_ENTITY") or self.note.entity
        self._keep_note()
        self.selected: dict[int, dict[str, Any]] = {}
        settings = {"project": self.note.project, "entity": self.note.entity, "group": self.note.group}
        self.writer = Writer(folder, mode, settings, _say, self._online)

    def start(self, number: int, config: TrialConfig, job: str = layout.TRIAL, noted: dict | None = None) -> None:
        """A trial starts, or starts again, or its configuration is tested; `noted` is what the study notes of it."""
        tags = [self.dataset, config.method, *(["paper-protocol"] if config.protocol == "paper" else [])]
        facts = {"sweep": self.note.group, "dataset": self.dataset, "trial": number, "made_by": self.made_by}
        facts |= {name: (noted or {})[name] for name in (KNOWN, PLAIN) if name in (noted or {})}
        name = self.note.run_id(number, job).replace(self.note.id, self.folder.resolve().name)
        self.writer.start(self.note.run_id(number, job), name, job, tags, to_mapping(config) | {layout.FACTS: facts})

    def epoch(self, number: int, metrics: dict[str, Any], score: GapScore) -> None:
        """Metrics of an epoch, as training yields them; `score` is what the gap's histogram counts."""
        numbers = {
            name: value
            for name, value in metrics.items()
            if name not in TUNES_OWN
            and not name.startswith(OBJECTIVE)
            and isinstance(value, int | float | np.number)
            and not isinstance(value, bool)
        }
        numbers = {name: value.item() if isinstance(value, np.number) else value for name, value in numbers.items()}
        if metrics["epoch"] == metrics.get("best_epoch"):
            self.selected[number] = numbers
        words = {name: metrics[name] for name in ("stage", "mixture_reason") if name in metrics}
        histograms = {}
        if counts := metrics.get("gap_counts"):
            edges = np.linspace(*score_range(score), len(counts) + 1).tolist()
            histograms["gap/histogram"] = (edges, list(counts))
        values = {layout.chart(name): value for name, value in (numbers | words).items()}
        self.writer.log(self.note.run_id(number), metrics["epoch"], values, histograms)

    def end(self, told: FrozenTrial, epochs: int) -> None:
        """How a trial of `epochs` ended, with the metrics of its selected epoch; one still running was interrupted."""
        number, attrs = told.number, told.user_attrs
        selected = {layout.SELECTED + name: value for name, value in self.selected.pop(number, {}).items()}
        summary = {layout.STATE: told.state.name.lower()} | selected
        if told.state in (TrialState.COMPLETE, TrialState.PRUNED):
            summary["epochs_saved"] = max(attrs["epochs_reused"] + epochs - attrs["epochs"], 0)
        summary |= {f"{OBJECTIVE}_{name}": value for name, value in attrs.get(VALUES, {}).items()}
        if told.state == TrialState.COMPLETE:
            summary[OBJECTIVE] = told.value
        if "error" in attrs:
            summary["error"] = attrs["error"]
        exit_code = {TrialState.FAIL: 1, TrialState.RUNNING: STOPPED}.get(told.state, 0)
        self.writer.finish(self.note.run_id(number), summary, exit_code)

    def test(self, number: int, config: TrialConfig, worth: Worth, figures: list[Path]) -> None:
        """The test of the chosen configuration: a step a seed; mean, deviation and interval in the summary.

        With the last seed comes a table of what it was compared with; how far it is ahead stands in the summary.
        """
        run, results = self.note.run_id(number, layout.TEST), worth.results[CHOSEN]
        self.start(number, config, layout.TEST)
        images = {f"figures/{file.stem}": str(file.resolve()) for file in figures if file.exists()}
        for step, (seed, row) in enumerate(results.rows.items()):
            values = {layout.chart(name): row[name] for name in TEST_METRICS}
            compared = worth.references and step == len(results.rows) - 1
            tables = {"references": worth.table()} if compared else {}
            self.writer.log(run, step, {"seed": seed} | values, images=images, tables=tables)
            images = {}
        summary: dict[str, Any] = {"seeds": len(results.rows), "seeds_failed": len(results.failed)}
        for name in TEST_METRICS:
            summary |= _in_summary(layout.chart(name), results.interval(name))
        if worth.references:
            summary |= {"worth": worth.sentence, "advice": worth.advice}
        for name in worth.references:
            paired = worth.ahead_of(name)
            summary |= _in_summary(f"ahead_of/{name}", paired.interval) | {f"ahead_of/{name}_wins": paired.wins}
        self.writer.finish(run, summary, 0)

    def comparison(self, results: list[MethodResult], budget: str) -> None:
        """The table of a comparison, and each method's numbers in the summary; told again when more are known."""
        run = self.note.run_id(0, layout.COMPARISON)
        methods = [result.method for result in results]
        facts = {"comparison": self.note.group, "made_by": self.made_by}
        config = {"methods": methods, "budget": budget, layout.FACTS: facts}
        self.writer.start(run, self.folder.resolve().name, layout.COMPARISON, [self.dataset, *methods], config)
        known = sum(1 + len(result.seeds) for result in results)
        self.writer.log(run, known, {"methods": len(methods)}, tables={"comparison": table(results)})
        summary: dict[str, Any] = {}
        for result in results:
            if result.validation is not None:
                summary[f"{result.method}/{layout.VALUE}"] = result.validation
            for name in TEST_METRICS if result.seeds else ():
                interval = Interval.of([row[name] for row in result.seeds.values()])
                summary |= _in_summary(f"{result.method}/{name}", interval)
        self.writer.finish(run, summary, 0)

    def _online(self, url: str, entity: str) -> None:
        _say(f"W&B: {without_passwords(url)}")
        self.note.entity = entity
        self._keep_note()

    def _keep_note(self) -> None:
        with suppress(OSError):  # a full disk; the sweep itself will say so
            layout.write_note(self.folder, self.note)


class WandbCallback(Callback):
    """Passes on what Tune tells."""

    def __init__(
        self,
        log: SweepLog,
        study: optuna.Study,
        describe: Callable[[dict[str, Any]], tuple[int, TrialConfig]],
    ) -> None:
        """`describe` gives a trial's number and configuration, from the configuration that Tune has."""
        self.log, self.study, self.describe = log, study, describe

    def __reduce__(self) -> Any:
        """Tune pickles its callbacks beside the trials, and never reads them: of this one a mere Callback is left."""
        return Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial starts, or starts again."""
        number, config = self.describe(trial.config)
        self.log.start(number, config, noted=self._told(number).user_attrs)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        """An epoch ended."""
        number, config = self.describe(trial.config)
        another_seed = result.get("epochs_in_all", 0) > result["epoch"]  # of the trial, whose first seed W&B has
        if not result.get("error") and not another_seed:
            self.log.epoch(number, result, config.gap.score)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended; the study knows already how."""
        number, config = self.describe(trial.config)
        self.log.end(self._told(number), config.epochs)

    def _told(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial was given up; its process may have died before Tune said that it starts."""
        self.on_trial_start(iteration, trials, trial)
        self.on_trial_complete(iteration, trials, trial)


def _in_summary(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}_mean": interval.mean, f"{name}_std": interval.std, f"{name}_ci95": interval.half_width}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
