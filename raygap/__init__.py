"""Tune audio-visual classifiers that suffer from modality imbalance, on a Ray cluster.

From Python: sweep, train, compare, predict, diagnose, export, load_run (docs/python.md).
"""

import importlib
from typing import Any

from raygap.bytecode import keep_bytecode

keep_bytecode()  # before anything large is imported

_HOMES = {
    "sweep": "raygap.api.sweep",
    "train": "raygap.api.train",
    "compare": "raygap.api.compare",
    "predict": "raygap.api.predict",
    "diagnose": "raygap.api.diagnose",
    "export": "raygap.api.export",
    "load_run": "raygap.api.results",
    "SweepRun": "raygap.api.results",
    "Training": "raygap.api.results",
    "TestResults": "raygap.api.results",
    "MethodsCompared": "raygap.api.results",
    "Diagnosed": "raygap.api.diagnose",
    "UserError": "raygap.errors",
}
"""Imported when they are first asked for: `import raygap` loads neither torch nor Ray. Their types: __init__.pyi."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raygap' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
