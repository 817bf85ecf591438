"""What a sweep will cost, said before it starts: epochs, memory and disk, and without a GPU how long it takes."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raygap.config import FEATURES, MODALITIES, TrialConfig, flatten
from raygap.methods import find_method
from raygap.schema import from_mapping, shapes_warmup, to_mapping
from raygap.search.known import Known, as_trial
from raygap.search.plan import Plan
from raygap.search.references import reference_configs
from raygap.search.space import own_fields
from raygap.tracking.whereabouts import rough

if TYPE_CHECKING:
    from raygap.data.store import Store

BYTES = 4
"""Of a number in weights, gradients and the optimiser's state, whatever precision the arithmetic has."""
STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps of each weight."""

TIMED = 8
"""Clips of the step that is timed, at most: a ResNet on a CPU takes a second for so many."""
LONG = 3600.0
"""Seconds from which a run says what would make it shorter."""


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


def cost_of(plan: Plan, classes: int = 10, channels: Mapping[str, int] | None = None) -> Cost:
    """Of configurations drawn as the search might draw them, the same ones each time: an estimate of what is shared.

    `channels` are a store's; without it features are taken to be short.
    """
    space = plan.search_space
    known = [as_trial(one, space, 0) for one in plan.known][: plan.trials]
    drawn = [as_trial(Known(f"drawn {number}", {}, drawn=True), space, 0) for number in range(plan.trials - len(known))]
    configs = [from_mapping(own_fields(space.fixed, start.beside | start.params)) for start in known + drawn]
    warmups: dict[str, list[int]] = {}
    for config in configs:
        warmups.setdefault(_shaping(config), []).append(config.warmup.epochs)
    longest = sum(map(max, warmups.values()))
    shared = sum(map(sum, warmups.values())) - longest if plan.trunk_gb else 0
    parameters = _parameters(configs[0], classes, channels)
    state = STATES[configs[0].optimizer.name] + bool(configs[0].optimizer.ema)
    return Cost(
        epochs=sum(config.epochs for config in configs),
        shared=shared,
        weights=parameters * BYTES * (2 + state),
        checkpoint=parameters * BYTES * (1 + state),
        kept=longest,
    )


def time_needed(config: TrialConfig, store: "Store", epochs: int, at_once: int) -> list[str]:
    """In words how long so many epochs take with so many trials at a time, by a step timed here; empty with a GPU.

    Where it is long, with what to set.
    """
    from raygap.search.placement import nodes

    if any(node.get("GPU") for node in nodes()):
        return []
    seconds = epochs * seconds_an_epoch(config, store) / at_once
    line = f"without a GPU about {rough(seconds)} at most, by a step that was timed just now"
    if seconds < LONG:
        return [line]
    smaller = [
        *(["model.encoder=small_cnn"] if any(_is_large(config, modality) for modality in MODALITIES) else []),
        *(["prepare.frames=1"] if config.prepare.frames > 1 and not store.features else []),
        *(["prepare.frame_size=64"] if config.prepare.frame_size > 64 and not store.features else []),
    ]
    sets = " ".join(f"--set {assignment}" for assignment in smaller)
    return [f"{line}; shorter: {f'{sets}, or ' if sets else ''}fewer --epochs (now {config.epochs}), trials or seeds"]


def _is_large(config: TrialConfig, modality: str) -> bool:
    return config.model.of(modality).encoder not in ("pooled", "small_cnn", *FEATURES)


def seconds_an_epoch(config: TrialConfig, store: "Store") -> float:
    """How long one process of this machine trains and validates, by the second of two steps with a few clips."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from raygap.data.batches import batches
    from raygap.training.trainer import training_rows, trial_network

    rows = training_rows(config, store)
    count, threads, seconds = min(TIMED, config.optimizer.batch_size, len(rows)), torch.get_num_threads(), 0.0
    # Two at least: batch normalisation cannot train on a lone clip.
    order = np.arange(max(count, 2)) % len(rows)
    try:
        torch.set_num_threads(config.compute.threads)
        with torch.random.fork_rng([]):
            kind = find_method(config.method)
            network = trial_network(config, len(store.class_names), kind, store.channels, weights=False)
            network.to(memory_format=torch.channels_last)
            for _ in range(2):
                began = time.monotonic()
                for batch in batches(
                    store,
                    rows,
                    batch_size=len(order),
                    order=order,
                    device=torch.device("cpu"),
                    augment=config.augment,
                    seed=config.seed,
                    epoch=0,
                ):
                    outputs = network(batch.audio, batch.visual)
                    logits = torch.stack((outputs.fused, outputs.audio, outputs.visual))
                    F.cross_entropy(logits.flatten(0, 1), batch.labels.repeat(3)).backward()
                seconds = time.monotonic() - began
    finally:
        torch.set_num_threads(threads)
    judged = len(store.rows("test" if config.protocol == "paper" else "val"))
    return seconds / len(order) * (len(rows) + judged / 3)  # judging goes forwards alone


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


def _parameters(config: TrialConfig, classes: int, channels: Mapping[str, int] | None) -> int:
    from raygap.training.check import SOME_NUMBERS
    from raygap.training.trainer import trial_network

    if not channels and config.prepare.input == "features":
        channels = dict.fromkeys(MODALITIES, SOME_NUMBERS)
    own = {"channels": channels} if channels else {}
    network = trial_network(config, classes, find_method(config.method), weights=False, **own)
    return sum(parameter.numel() for parameter in network.parameters())


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
