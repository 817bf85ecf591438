"""The whole configuration of a trial: what every trial has, and the sections of its method.

>>> config = from_mapping({"warmup.epochs": 3, "loss": {"align_weight": 0.2}})
>>> config.warmup.epochs, config.loss.align_weight
(3, 0.2)
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError, create_model

from raygap.config import Section, TrialConfig, flatten
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.plugins import is_plugin

Values = Callable[[str], Iterable[Any]]
"""The values that a field may have, by its dotted path."""


class _Whole(TrialConfig):
    """Base of the schemas, which are made at run time: other processes make theirs from the plain mapping."""

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], TrialConfig], tuple[dict[str, Any]]]:
        return from_mapping, (to_mapping(self),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrialConfig) and self.model_dump() == other.model_dump()

    __hash__ = TrialConfig.__hash__


@cache
def trial_schema(method: str) -> type[TrialConfig]:
    """The class of a method's configurations. Raises UserError for an unknown method."""
    sections: dict[str, Any] = {name: (kind, kind()) for name, kind in find_method(method).all_sections().items()}
    made: type[TrialConfig] = create_model("TrialConfig", __base__=_Whole, __doc__=TrialConfig.__doc__, **sections)
    return made


@cache
def field_paths(method: str | None = None) -> Mapping[str, Any]:
    """Every field of a method's configuration as dotted path -> pydantic FieldInfo; None: of all of raygap's methods.

    Of fields that methods share the first method's is taken. No class is made of them, as trial_schema does: for all
    methods together that takes longer than all else that a wrong option needs.
    """
    paths: dict[str, Any] = {}
    for name in [method] if method else METHODS:
        found = dict(_leaves(TrialConfig))
        for section, kind in find_method(name).all_sections().items():
            found |= _leaves(kind, f"{section}.")
        paths = found | paths
    return MappingProxyType(paths)


@cache
def _leaves(section: type[Section], prefix: str = "") -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            paths |= _leaves(info.annotation, f"{prefix}{name}.")
        else:
            paths[prefix + name] = info
    return paths


def shapes_warmup(path: str, method: str | None = None) -> bool:
    """Whether a field can change a trial before its warm-up ends."""
    return bool((field_paths(method)[path].json_schema_extra or {}).get("shapes_warmup", True))


@cache
def _cases(path: str, method: str) -> list[tuple[dict[str, Any], ...]]:
    """The cases in which a field's sections, and it itself, act; of each group one must hold."""
    node: type[Section] = trial_schema(method)
    groups: list[Any] = []
    for name in path.split("."):
        info = node.model_fields[name]
        extra: Any
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            node = info.annotation
            extra = node.model_config.get("json_schema_extra")
        else:
            extra = info.json_schema_extra
        groups.append((extra or {}).get("acts_when"))
    return [group for group in groups if group]


def _missing(case: dict[str, Any], values: Values, method: str) -> list[str]:
    """What a case lacks, in words. A condition on a field that the method does not have holds."""
    lacking = []
    for other, condition in case.items():
        if other.startswith("method."):
            have: Iterable[Any] = (getattr(find_method(method), other.removeprefix("method.")),)
        elif other in field_paths(method):
            have = values(other)
        else:
            continue
        if not any(meets(value, condition) for value in have):
            lacking.append(
                f"another method than {method}" if other.startswith("method.") else f"{other} {in_words(condition)}"
            )
    return lacking


def can_act(path: str, values: Values) -> bool:
    """Whether a field can change anything, with one of the methods that `values` tells of."""
    return any(
        path in field_paths(method)
        and all(any(not _missing(case, values, method) for case in group) for group in _cases(path, method))
        for method in values("method")
    )


def named_in_marks(path: str, methods: Iterable[str]) -> set[str]:
    """The fields, and "method", that decide whether a field can act in a configuration of one of these methods."""
    named, methods = set(), list(methods)
    for method in methods:
        if path in field_paths(method):
            named |= {other for group in _cases(path, method) for case in group for other in case}
    by_method = any(other.startswith("method.") for other in named)
    by_method |= not all(path in field_paths(method) for method in methods)
    return {other for other in named if not other.startswith("method.")} | ({"method"} if by_method else set())


def acting(paths: Iterable[str], config: TrialConfig) -> list[str]:
    """Those of the fields that can change anything in a configuration."""
    flat = flatten(config.model_dump())
    return [path for path in paths if can_act(path, lambda other: (flat[other],))]


def why_inert(path: str, values: Values) -> str:
    """What a field that cannot act lacks, in words: of the cases the one that lacks least."""
    method = next(iter(values("method")))
    if path not in field_paths(method):
        return f"{method} has no such field"
    groups = _cases(path, method)
    lacking = [min((_missing(case, values, method) for case in group), key=len) for group in groups]
    return "needs " + " and ".join(dict.fromkeys(lack for group in lacking for lack in group))


def meets(value: Any, condition: Any) -> bool:
    """Whether a field's value is as a condition asks: see acts_when; a list is as good as a tuple."""
    if isinstance(condition, tuple | list):
        return value in condition or any(fnmatchcase(str(value), one) for one in condition if "*" in str(one))
    if isinstance(condition, str) and condition.startswith(">"):
        return isinstance(value, int | float) and value > float(condition[1:])
    if isinstance(condition, str) and condition.startswith("!="):
        return bool(value != condition[2:])
    return bool(value == condition)


def in_words(condition: Any) -> str:
    """A condition, to be read after the name of its field."""
    if isinstance(condition, tuple | list):
        return str(condition[0]) if len(condition) == 1 else "one of " + ", ".join(map(str, condition))
    if isinstance(condition, str) and condition.startswith((">", "!=")):
        sign = ">" if condition.startswith(">") else "!="
        return f"{sign} {condition.removeprefix(sign)}"
    return str(condition)


def check_path(path: str, source: str, method: str | None = None) -> None:
    """Raise UserError, with the nearest valid name, if a method's configuration has no field at this dotted path.

    Without a method those of all of raygap's methods are known.
    """
    path, paths = str(path), field_paths(method)
    if path in paths:
        return
    if method and (owners := [name for name in METHODS if path in field_paths(name)]):
        raise UserError(f"{source}: {method} has no field {path}; it is one of {', '.join(owners)}")
    # A bare leaf name ("align_weigth") should find its dotted path too.
    leaves = {p.rsplit(".", 1)[-1]: p for p in paths}
    near = difflib.get_close_matches(path, paths, n=1, cutoff=0.6)
    near = near or [leaves[n] for n in difflib.get_close_matches(path.rsplit(".", 1)[-1], leaves, n=1)]
    hint = f"did you mean {near[0]}?" if near else "the fields are listed in raygap/config.py and the method's file"
    raise UserError(f"{source}: unknown field {path!r}; {hint}")


def check_known(path: str, source: str, methods: Iterable[str]) -> None:
    """Raise UserError if neither a method of raygap's nor, of these methods, one from elsewhere has such a field.

    For what is said of several methods, as a data set's search space is.
    """
    plugins = [method for method in methods if is_plugin(method)]
    if str(path) not in field_paths() and not any(str(path) in field_paths(plugin) for plugin in plugins):
        check_path(path, source, plugins[0] if plugins else None)


def from_mapping(mapping: Mapping[str, Any], source: str = "configuration") -> TrialConfig:
    """Build a checked configuration from nested and/or dotted keys; `source` names the file in errors.

    Of schema version 1, which had the sections of all methods, those that the method does not have are left out.
    Raises UserError (one line) for an unknown method or field, a wrong type, a value out of bounds, or stages longer
    than epochs.
    """
    flat = flatten(mapping)
    method = str(flat.get("method", TrialConfig.model_fields["method"].default))
    schema, known = trial_schema(method), field_paths(method)
    if flat.get("schema_version") == 1:
        foreign = field_paths().keys() - known.keys()
        flat = {path: value for path, value in flat.items() if path not in foreign} | {"schema_version": 2}
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        check_path(path, source, method)
        if isinstance(value, bool) and known[path].annotation in (int, float):
            raise UserError(f"{source}: {path} = {value}: Input should be a number")
        *sections, leaf = path.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    try:
        return schema.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if path not in flat:  # raised by a section as a whole
            raise UserError(f"{source}: {message}") from None
        raise UserError(f"{source}: {path} = {flat[path]!r}: {message}") from None


def to_mapping(config: TrialConfig) -> dict[str, Any]:
    """Nested plain dict, as written to YAML, of the sections that are in use; from_mapping reads it back."""
    return config.model_dump(mode="python", exclude=_unused(config))


def _unused(section: Section) -> dict[str, Any]:
    """As pydantic's exclude takes it."""
    found: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, Section) and not value.in_use:
            found[name] = True
        elif isinstance(value, Section) and (within := _unused(value)):
            found[name] = within
    return found


def parse_assignments(assignments: list[str], methods: Iterable[str] = ()) -> dict[str, Any]:
    """`["loss.focus=2", ...]` as a flat dict; values are read as YAML.

    `methods` are those that they are for, where that is not among them. Raises UserError without an '=', or for a field
    that none of raygap's methods has, nor one of these.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: expected field=value")
        try:
            values |= flatten({path.strip(): yaml.safe_load(text)})
        except yaml.YAMLError:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from None
    methods = (str(values["method"]),) if "method" in values else tuple(methods)
    for field in values:
        check_known(field, "--set", methods)
    return values
