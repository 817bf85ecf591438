"""What a caller gives: checked as the commands check their options, and read as they read them."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import Field, ValidationError, validate_call
from rich.console import Console

from raygap.config import flatten
from raygap.errors import UserError
from raygap.plugins import is_plugin
from raygap.private import without_passwords
from raygap.schema import check_path
from raygap.tasks.progress import Progress

Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=1, allow_inf_nan=False)]
Gigabytes = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Cpus = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gpus = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Val = Literal["stratified", "actors"]
Fields = Mapping[str, Any]
"""Of a configuration, by dotted path or nested."""

Given = ParamSpec("Given")
Result = TypeVar("Result")


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Raise UserError, in one line without passwords, for arguments that are unknown, missing or of a wrong kind."""
    call, name = validate_call(function), function.__name__

    @functools.wraps(function)
    def wrapper(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        try:
            return call(*args, **kwargs)
        except UserError as error:
            raise UserError(_as_arguments(function, without_passwords(str(error)))) from None
        except ValidationError as error:
            if error.title != name:
                raise
            raise UserError(_in_words(function, error)) from None

    return wrapper


def _as_arguments(function: Callable[..., Any], said: str) -> str:
    """What is said of the command's options, of the function's arguments: --keep-overlap is keep_overlap."""
    names = {name.replace("_", "-"): name for name in inspect.signature(function).parameters}
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*)", lambda found: names.get(found[1], found[0]), said)


def _in_words(function: Callable[..., Any], error: ValidationError) -> str:
    first, known = error.errors()[0], list(inspect.signature(function).parameters)
    where = str(known[first["loc"][0]] if isinstance(first["loc"][0], int) else first["loc"][0])
    kind, call = first["type"], f"{function.__name__}()"
    if kind == "unexpected_keyword_argument":
        near = difflib.get_close_matches(where, known, n=1)
        return f"{call}: no argument {where}; " + (f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}")
    if kind.startswith("missing"):
        return f"{call}: {where} is missing"
    # Of a union each member has said why not; the last is the widest.
    said = next((one["msg"] for one in reversed(error.errors()) if one["loc"][0] == first["loc"][0]), first["msg"])
    return f"{call}: {where} = {first['input']!r}: {said}"


def given_fields(fields: Fields | None, method: str | None = None) -> dict[str, Any]:
    """`set` by dotted path. Raises UserError for a field that none of raygap's methods has, nor this one."""
    flat = flatten(fields or {})
    method = str(flat.get("method", method or ""))
    for field in flat:
        check_path(field, "set", method if is_plugin(method) else None)
    return flat


def progress_of(shown: bool) -> Progress:
    """On stderr, which a notebook shows in its cell; or nowhere."""
    return Progress(Console(stderr=True, quiet=not shown))
