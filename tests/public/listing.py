"""What users call and set, in three lists: `python tests/public/listing.py` writes them anew.

options.txt has each option of each command, fields.txt each field of each method's configuration, python.txt each
function of `import raygap` with its arguments, and what the plain results hold. A name that goes breaks somebody's
script or best.yaml: these files show it in the diff.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

import raygap
from raygap.commands.app import COMMANDS
from raygap.methods import METHODS
from raygap.schema import field_paths

FOLDER = Path(__file__).parent
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def options() -> Iterator[str]:
    """A line an option: command, names, type, bounds, default as --help shows it."""
    for name in COMMANDS:
        main = importlib.import_module(f"raygap.commands.{name}").main
        hints = get_type_hints(main, include_extras=True)
        for parameter in inspect.signature(main).parameters.values():
            annotation, info = get_args(hints[parameter.name])
            # Beside an annotation, typer.Option takes the first of its own names for a default.
            given = [word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("--")]
            called = "/".join(given) or f"--{parameter.name.replace('_', '-')}"
            called = called if isinstance(info, OptionInfo) else f"<{parameter.name}>"
            bounds = [f"{word} {end}" for word in ("min", "max") if (end := getattr(info, word)) is not None]
            shown = info.show_default if isinstance(info.show_default, str) else parameter.default
            default = "required" if shown is parameter.empty else "" if shown in (None, False) else f"default {shown}"
            yield f"{name} {called}: {', '.join(filter(None, [kind(annotation), *bounds, default]))}"


def fields() -> Iterator[str]:
    """A line a field: path, type, bounds, default, marks; behind it the methods that have it, where not all do."""
    by_line: dict[str, list[str]] = {}
    for method in METHODS:
        for path, info in field_paths(method).items():
            extra = info.json_schema_extra or {}
            facts = [kind(info.annotation), *bounds(info.metadata), f"default {info.default!r}"]
            facts += [] if extra.get("shapes_warmup", True) else ["later"]
            facts += [f"acts when {cases}" for cases in [extra.get("acts_when")] if cases]
            by_line.setdefault(f"{path}: {', '.join(facts)}", []).append(method)
    for line, methods in sorted(by_line.items()):
        yield line if len(methods) == len(METHODS) else f"{line} [{', '.join(sorted(methods))}]"


def bounds(metadata: list[Any]) -> list[str]:
    """Those of a field, without its validators."""
    found = {name: end for bound in metadata for name, end in dataclasses.asdict(bound).items()}
    return [f"{sign} {found[name]:g}" for name, sign in SIGNS.items() if name in found]


def kind(annotation: Any) -> str:
    """A type as it is read: text, int, one of some words; a list is several."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " | ".join(kind(part) for part in parts if part is not NoneType)
    if origin in (list, tuple):
        return f"{origin.__name__} of {kind(parts[0])}"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def functions() -> Iterator[str]:
    """A line an argument of each function, and a line a field or property of each result."""
    for name in sorted(raygap.__all__):
        what = getattr(raygap, name)
        if dataclasses.is_dataclass(what):
            held = {field.name for field in dataclasses.fields(what)}
            held |= {key for key, value in vars(what).items() if isinstance(value, property)}
            yield from (f"{name}.{one}" for one in sorted(held) if not one.startswith("_"))
        elif isinstance(what, type):
            yield name
        else:
            for argument in inspect.signature(what).parameters.values():
                default = "" if argument.default is argument.empty else f" = {argument.default!r}"
                yield f"{name}({argument.name}{default})"


LISTS = {"options.txt": options, "fields.txt": fields, "python.txt": functions}


def listed(name: str) -> str:
    """What a list should hold."""
    return "".join(f"{line}\n" for line in LISTS[name]())


if __name__ == "__main__":
    for name in LISTS:
        (FOLDER / name).write_text(listed(name), encoding="utf-8")
