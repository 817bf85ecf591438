"""What a sweep will cost, said before it starts: epochs, memory and disk. Minutes are told by its first epochs."""

import json
from dataclasses import dataclass

from raygap.config import TrialConfig, flatten
from raygap.methods import find_method
from raygap.schema import from_mapping, shapes_warmup, to_mapping
from raygap.search.known import Known, as_trial
from raygap.search.plan import Plan
from raygap.search.references import reference_configs
from raygap.search.space import own_fields

BYTES = 4
"""Of a number in weights, gradients and the optimiser's state, whatever precision the arithmetic has."""
STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps of each weight."""


@dataclass(frozen=True)
class Cost:
    """Before early stopping, which spares some of it."""

    epochs: int
    """Of all trials together."""
    shared: int
    """Of them warm-up that another trial of the sweep has trained."""
    weights: int
    """Bytes of a trial's weights, gradients and optimiser state; the activations of a batch come on top."""
    checkpoint: int
    """Bytes of a checkpoint: one a trial that runs, one an epoch of each warm-up that is kept."""
    kept: int
    """Epochs of warm-up that are kept."""

    def lines(self, plan: Plan, at_once: int) -> list[str]:
        """In words, for a plan with so many trials at a time."""
        shared = f", {self.shared:,} of them shared warm-up that is trained once" if self.shared else ""
        config = plan.check()
        epochs, references = config.epochs * plan.test_seeds, len(reference_configs(config)) if plan.references else 0
        beside = f", and {references * epochs:,} of {references} references (--no-references)" if references else ""
        trunk = min(self.kept * self.checkpoint, plan.trunk_gb * 1e9) if plan.trunk_gb else 0.0
        return [
            f"at most {self.epochs:,} epochs of trials{shared}; early stopping spares more",
            *([f"then {epochs:,} epochs of {plan.test_seeds} test seeds{beside}"] if epochs else []),
            f"a trial's weights, gradients and optimiser take {_size(self.weights)}; a batch's activations come on top",
            f"about {_size(at_once * self.checkpoint + trunk)} on disk while it runs: checkpoints, and shared warm-ups "
            f"within --trunk-gb {plan.trunk_gb:g}",
        ]


def cost_of(plan: Plan, classes: int = 10) -> Cost:
    """Of configurations drawn as the search might draw them, the same ones each time: an estimate of what is shared."""
    space = plan.search_space
    known = [as_trial(one, space, 0) for one in plan.known][: plan.trials]
    drawn = [as_trial(Known(f"drawn {number}", {}, drawn=True), space, 0) for number in range(plan.trials - len(known))]
    configs = [from_mapping(own_fields(space.fixed, start.beside | start.params)) for start in known + drawn]
    warmups: dict[str, list[int]] = {}
    for config in configs:
        warmups.setdefault(_shaping(config), []).append(config.warmup.epochs)
    longest = sum(map(max, warmups.values()))
    shared = sum(map(sum, warmups.values())) - longest if plan.trunk_gb else 0
    parameters = _parameters(configs[0], classes)
    state = STATES[configs[0].optimizer.name] + bool(configs[0].optimizer.ema)
    return Cost(
        epochs=sum(config.epochs for config in configs),
        shared=shared,
        weights=parameters * BYTES * (2 + state),
        checkpoint=parameters * BYTES * (1 + state),
        kept=longest,
    )


def _shaping(config: TrialConfig) -> str:
    """What trials that share their warm-up have in common, as far as it can be told without training (see trunk.py)."""
    method = find_method(config.method)
    fields = {
        path: value
        for path, value in flatten(to_mapping(config)).items()
        if shapes_warmup(path, config.method) and path not in ("method", "epochs")
    }
    hooks = [hook.__qualname__ for hook in (method.plain_terms, method.extend, method.predict)]
    return json.dumps([fields, hooks, method.probe_heads], sort_keys=True, default=str)


def _parameters(config: TrialConfig, classes: int) -> int:
    from raygap.training.trainer import trial_network

    network = trial_network(config, classes, find_method(config.method))
    return sum(parameter.numel() for parameter in network.parameters())


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
