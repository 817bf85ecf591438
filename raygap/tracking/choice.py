"""How the best trial was chosen, in words: what was chosen on validation, and by how much."""

from typing import TYPE_CHECKING

from raygap.tracking.objectives import study_objectives
from raygap.tracking.run_folder import PLAIN, best_trial, own_trials, rank

if TYPE_CHECKING:  # commands need these names before they need Optuna
    import optuna
    from optuna.trial import FrozenTrial


def rival_of(study: "optuna.Study", best: "FrozenTrial") -> "FrozenTrial | None":
    """The best guided trial where the best one is plain, or the best plain one where it is guided."""
    return max((trial for trial in _complete(study) if _plain(trial) != _plain(best)), key=rank(study), default=None)


def choice_in_words(study: "optuna.Study", guided: bool, clips: int) -> str:
    """By how much a guided trial was chosen over the plain ones, or they over it; empty for a method without mixture.

    `guided`: the best trial uses posteriors; `clips`: those that trials are judged on. A configuration judged over
    several seeds has their mean as its value.
    """
    best = best_trial(study)
    if best is None or not (guided or _plain(best)):
        return ""
    rival = rival_of(study, best)
    if rival is None:
        other = "guided" if _plain(best) else "plain"
        return f"No {other} trial was among the candidates: what the mixture adds, the test alone can tell."
    ahead, (kind, other) = abs(best.value - rival.value), ("plain", "guided") if _plain(best) else ("guided", "plain")
    count = sum(_plain(trial) == _plain(rival) for trial in _complete(study))
    beside = f"the best of {count} {other} trials" if count > 1 else f"the only {other} trial"
    if not ahead:
        by = "equal to, and so preferred to,"
    elif study_objectives(study)[0].name == "accuracy":
        by = f"{100 * ahead:.1f} points ({clips * ahead:.1f} of {clips} clips) above"
    else:
        by = f"by {ahead:.4f} better than"
    return f"Chosen on validation is a {kind} trial, {by} {beside} (trial {rival.number})."


def _complete(study: "optuna.Study") -> "list[FrozenTrial]":
    from optuna.trial import TrialState

    return own_trials(study, TrialState.COMPLETE)


def _plain(trial: "FrozenTrial") -> bool:
    return bool(trial.user_attrs.get(PLAIN))
