"""Who may import whom: raygap's rooms, read from the sources. CONTRIBUTING.md says what each room is for."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "raygap"
GROUND = {"bytecode", "called", "config", "ending", "errors", "extras", "lazy", "locks", "pace", "patience", "plugins"}
GROUND |= {"private", "provenance", "rng", "storage", "workers"}
"""Single files that every room may stand on."""
BELOW = {
    "imbalance": set(),
    "models": set(),
    "data": set(),
    "methods": {"imbalance", "models"},
    "schema": {"methods"},
    "training": {"data", "imbalance", "methods", "models", "schema"},
    "tracking": {"data", "imbalance", "schema"},
    "search": {"data", "methods", "schema", "tracking", "training"},
    "cluster": {"search", "tracking"},
    "testing": {"data", "methods", "schema", "training"},
    "tasks": {"data", "imbalance", "schema", "search", "tracking", "training"},
    "commands": {"cluster", "data", "imbalance", "methods", "schema", "search", "tasks", "tracking", "training"},
    "__main__": {"commands"},
    "api": {"data", "imbalance", "methods", "schema", "search", "tasks", "tracking", "training"},
}
"""The rooms that each room may import, ground apart; a new room gets a line here."""


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(file: Path) -> Iterator[str]:
    """What a file imports anywhere in it, also for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else str(node.module)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_arrows_between_rooms_run_one_way() -> None:
    wrong = []
    for name, file in MODULES.items():
        for other in imports(file):
            here, there = room(name), room(other)
            if not other.startswith("raygap") or there in (here, ""):
                continue
            allowed = GROUND if here in GROUND | {""} else GROUND | BELOW[here]
            if there not in allowed:
                wrong.append(f"{name} imports {other}")
    assert wrong == [], "see BELOW above: what two rooms share stands in a room below both"


def test_no_circles_of_modules() -> None:
    graph = {name: {o for o in imports(file) if o in MODULES and o != name} for name, file in MODULES.items()}
    while free := [name for name, needed in graph.items() if not needed & graph.keys()]:
        for name in free:
            del graph[name]
    assert sorted(graph) == [], "these import each other, or one that does"


@pytest.mark.parametrize("part", ["imbalance", "methods", "models", "training"])
def test_training_knows_nothing_of_ray(part: str) -> None:
    for file in (PACKAGE / part).rglob("*.py"):
        assert "ray" not in {name.partition(".")[0] for name in imports(file)}, file


def test_imbalance_is_numbers_alone() -> None:
    for file in (PACKAGE / "imbalance").rglob("*.py"):
        outside = {name for name in imports(file) if name.partition(".")[0] not in sys.stdlib_module_names}
        allowed = ("numpy", "scipy", "sklearn", "threadpoolctl", "torch", "raygap.imbalance", "raygap.errors")
        assert not [name for name in outside if not name.startswith(allowed)], file
