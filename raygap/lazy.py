"""torch, imported when it is first used.

What a method's settings are stands in the method's file, and commands read it before they do anything: an error about
the command line must not wait seconds for torch. Only files that commands read need this; all others import torch.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, value)  # found without this function from now on
        return value


if TYPE_CHECKING:
    import torch
else:
    torch = _Lazy("torch")

__all__ = ["torch"]
