"""What a search knows from an earlier one: its finished trials, for the sampler alone, never as results."""

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from raygap.errors import UserError
from raygap.search.plan import Plan, read_plan
from raygap.tracking.report.run import Absent, Run
from raygap.tracking.run_folder import BESIDE, LEARNT, PLAN

SAME = ("seed", "compute.threads", "compute.workers")
"""Held-fixed fields that may differ: what was learnt under one value holds under another."""


def check_learnt(plan: Plan, store_key: str) -> None:
    """Raise UserError unless the plan can learn from the study it names: the same space, fixed fields and store."""
    if not plan.learn_from:
        return
    folder = Path(plan.learn_from)
    if not (folder / PLAN).exists():
        raise UserError(f"--learn-from {folder}: holds no sweep ({PLAN} is missing)")
    said = f"--learn-from {folder}"
    other = read_plan(folder)
    if (other.dataset, other.space) != (plan.dataset, plan.space):
        raise UserError(f"{said}: searched another space, or another data set; leave it out")
    for path in sorted(plan.fixed.keys() | other.fixed.keys()):
        before, now = (fields.get(path, "its default") for fields in (other.fixed, plan.fixed))
        if before != now and path not in SAME:
            raise UserError(f"{said}: had {path} = {before}, this sweep has {now}")
    if not _trials(folder):
        raise UserError(f"{said}: no trial of it is complete, so there is nothing to learn")
    if Run(folder).study.user_attrs.get("store") != store_key:
        raise UserError(f"{said}: used another store; the data, or their preparation, have changed since")


def learn(study: optuna.Study, folder: Path) -> None:
    """Add the finished trials of an earlier study to this one, marked; each once."""
    known = {trial.user_attrs.get(LEARNT) for trial in study.get_trials(deepcopy=False)}
    for trial in _trials(folder):
        name = f"trial {trial.number} of {folder.name}"
        if name not in known:
            lent = create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={LEARNT: name, BESIDE: trial.user_attrs.get(BESIDE, {})},
            )
            study.add_trial(lent)


def _trials(folder: Path) -> list[FrozenTrial]:
    """Its own that ended and did not fail."""
    try:
        run = Run(folder)
        return [*run.of_state(TrialState.COMPLETE), *run.of_state(TrialState.PRUNED)]
    except Absent as absent:
        raise UserError(f"--learn-from {folder}: {absent}") from None
