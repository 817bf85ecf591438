"""The training methods by the name a configuration gives: each file of this folder but NO_METHODS is one, of that name.

`package.module:Class` names a method from elsewhere: from the working directory, or an installed package.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from raygap.errors import UserError
from raygap.plugins import is_plugin, load_plugin

if TYPE_CHECKING:
    from raygap.methods.base import Method

NO_METHODS = ("__init__", "base", "dus", "held_out", "losses", "ppo")
"""Files with what methods share."""


class _Methods(Mapping):
    """Names to classes; a file is imported when its class is asked for."""

    def __iter__(self) -> Iterator[str]:
        files = sorted(file.stem for file in Path(__file__).parent.glob("*.py"))
        return (name for name in files if name not in NO_METHODS)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))

    def __getitem__(self, name: str) -> type[Method]:
        if name not in self:
            raise KeyError(name)
        module = importlib.import_module(f"raygap.methods.{name}")
        [method] = [
            kind for kind in vars(module).values() if isinstance(kind, type) and _is_method(kind, module.__name__)
        ]
        return method


def _is_method(kind: type, module: str) -> bool:
    from raygap.methods.base import Method

    return issubclass(kind, Method) and kind.__module__ == module


METHODS: Mapping[str, type[Method]] = _Methods()


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises UserError with the nearest name, or for what is no method."""
    if is_plugin(name):
        return _checked(load_plugin(name, "method"), name)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(METHODS)}"
        raise UserError(f"unknown method {name!r}; {hint}")
    return METHODS[name]


def _checked(kind: object, name: str) -> type[Method]:
    """A method from elsewhere. Raises UserError if it is none."""
    from raygap.methods.base import Method

    if not isinstance(kind, type) or not issubclass(kind, Method):
        raise UserError(f"method {name}: not a subclass of raygap.methods.base.Method")
    if kind.adaptive_terms is Method.adaptive_terms and kind.train_step is Method.train_step:
        raise UserError(f"method {name}: has no adaptive_terms, which give the loss of its adaptive stage")
    return kind
