"""The optimisers, without torch's compiler: its own import it at their first step, which takes seconds a process."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from raygap.config import Optimizer

_HELD_FROM_COMPILER = ("add_param_group", "state_dict", "load_state_dict", "zero_grad")
"""Methods that torch wraps so that a compiled program leaves them out. raygap compiles nothing."""


def make_optimizer(
    settings: Optimizer, network: torch.nn.Module, factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """The optimiser that a configuration names, over all parameters of the network.

    `factors` on the learning rate of parts of it, by their names, stand as `lr_factor` in the parts' groups.
    """
    apart = {part: list(network.get_submodule(part).parameters()) for part, factor in factors.items() if factor != 1}
    theirs = {parameter for parameters in apart.values() for parameter in parameters}
    groups: list[dict[str, Any]] = [{"params": [p for p in network.parameters() if p not in theirs]}]
    groups += [{"params": apart[part], "lr_factor": factors[part]} for part in apart]
    if settings.name == "adamw":
        return _AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
    return _SGD(groups, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)


def _eager(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """The same class, with the functions that torch has wrapped in place of the wrapped ones."""
    methods: dict[str, Callable] = {name: _inside(getattr(kind, name)) for name in _HELD_FROM_COMPILER}
    methods["step"] = torch.no_grad()(_inside(kind.step))
    return type(kind.__name__, (kind,), methods)


def _inside(function: Callable) -> Callable:
    return getattr(function, "__wrapped__", function)  # a torch that wraps nothing has nothing to be taken off


_SGD, _AdamW = _eager(torch.optim.SGD), _eager(torch.optim.AdamW)
