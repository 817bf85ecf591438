"""What the best trials of a sweep answer together, left in its run folder and said in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.search.plan import Plan
from raygap.tracking.objectives import study_objectives
from raygap.tracking.run_folder import ENSEMBLE, best_trials, trial_folder, write_text
from raygap.tracking.seed_results import SeedResults
from raygap.training import checkpoint

if TYPE_CHECKING:
    from raygap.training.ensemble import Ensemble


def drop_ensemble(folder: Path) -> None:
    """Before a search goes on: other trials may come to be the best, and the weights of these go."""
    (folder / ENSEMBLE).unlink(missing_ok=True)


def keep_ensemble(
    plan: Plan, study: optuna.Study, folder: Path, store: Store, read_test: bool
) -> tuple[list[str], dict[str, SeedResults]]:
    """Choose on validation among the best trials whose weights are there, and write ensemble.json.

    Returns what is to be said, and for the table of the test what the single best and the ensemble reached on it, by
    their names there; nothing where the single best answers. With `read_test` both are read on test.
    """
    from raygap.training.ensemble import combine

    trials = best_trials(study, plan.keep_top)
    networks = {str(trial.number): trial_folder(folder, trial.number) / "best.pt" for trial in trials}
    gone = [name for name, path in networks.items() if not path.exists()]
    networks = {name: path for name, path in networks.items() if name not in gone}
    lines = [f"Trials {', '.join(gone)} are among the best, but their weights were not kept."] if gone else []
    if len(networks) < 2:
        return [*lines, "No ensemble: fewer than two trials with weights are complete."], {}
    objective = study_objectives(study)[0]
    sign = -1 if objective.lower else 1
    found = combine(networks, store, folder, lambda metrics: sign * objective.of(metrics), read_test)
    lines += _lines(found, len(networks), next(iter(networks)), f"validation {objective.words}", objective.of)
    write_text(folder / ENSEMBLE, json.dumps(found.to_mapping() | {"about": lines}, indent=1))
    if not found.test:
        return lines, {}
    best = next(iter(networks))
    seed = from_mapping(checkpoint.load(networks[best])["config"], str(networks[best])).seed
    named = {"single": f"single best, seed {seed}"}
    named[found.answer] = f"ensemble of {len(found.weights)} trials, seed {seed}"
    return lines, {called: SeedResults({seed: found.test[name]}, {}) for name, called in named.items()}


def _lines(found: "Ensemble", kept: int, best: str, judged: str, value: Any) -> list[str]:
    single = value(found.validation["single"])
    rivals = {name: value(metrics) for name, metrics in found.validation.items() if name != "single"}
    shown = {"soup": "the mean of weights", "probabilities": "the mean of probabilities"}
    if found.answer == "single":
        tried = ", ".join(f"{shown[name]} {reached:.4f}" for name, reached in rivals.items())
        tried = f" ({tried})" if tried else ""
        return [
            f"No ensemble of the {kept} best trials is better than the single best, trial {best}, on validation: "
            f"{judged} {single:.4f}{tried}. The single best answers."
        ]
    of = ", ".join(
        f"{name} ({weight:.2f})" if found.answer == "probabilities" else name for name, weight in found.weights.items()
    )
    cost = "one forward pass a clip" if found.passes == 1 else f"{found.passes} forward passes a clip"
    lines = [
        f"predict answers by {shown[found.answer]} of {len(found.weights)} trials, {of}, at {cost}: {judged} "
        f"{rivals[found.answer]:.4f}, the single best (trial {best}) {single:.4f}. Chosen on these clips, it is "
        f"flattered by them ({_points(found.gains, 'val')} points of accuracy, paired by clip)."
    ]
    if found.test:
        test = [found.test[name]["test_accuracy"] for name in (found.answer, "single")]
        lines.append(
            f"On test: accuracy {test[0]:.4f}, the single best {test[1]:.4f} "
            f"({_points(found.gains, 'test')} points, paired by clip; one network each, of the search's own seed)."
        )
    return lines


def _points(gains: Mapping[str, tuple[float, float]], split: str) -> str:
    mean, half_width = gains[split]
    return f"{100 * mean:+.1f} ± {100 * half_width:.1f}"
