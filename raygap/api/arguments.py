"""What a caller gives: checked as the commands check their options, and read as they read them."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import Field, ValidationError, validate_call
from rich.console import Console

from raygap.commands.options import preparation_bar
from raygap.config import flatten
from raygap.data.clips import ReaderOptions
from raygap.data.prepared import default_cache, noted_source
from raygap.data.readers import find_reader
from raygap.errors import UserError
from raygap.plugins import is_plugin
from raygap.private import without_passwords
from raygap.schema import check_path
from raygap.tracking.seed_results import Reporter, seeds_bar

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
            raise UserError(without_passwords(str(error))) from None
        except ValidationError as error:
            if error.title != name:
                raise
            raise UserError(_in_words(function, error)) from None

    return wrapper


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


def present(**values: Any) -> dict[str, Any]:
    """Those that are given."""
    return {name: value for name, value in values.items() if value is not None}


def reader_options(splits: Path | None, val: Val | None, keep_overlap: bool) -> ReaderOptions:
    """As read_clips takes them."""
    return ReaderOptions(str(splits.resolve()) if splits else None, val, keep_overlap)


def find_source(
    dataset: str, root: Path | None, options: ReaderOptions, cache: Path | None
) -> tuple[Path | None, ReaderOptions]:
    """Where a data set is read from and how: as given, or, without a root, as `prepare` noted it in the cache.

    A given root wins over the whole note, a given option over the noted one. Raises UserError for an unknown data set.
    """
    if root or not find_reader(dataset).root:
        return root.resolve() if root else None, options
    noted = noted_source(cache or default_cache(), dataset)
    if noted is None:
        return None, options
    noted_root, earlier = noted
    return noted_root, replace(
        earlier,
        splits=options.splits or earlier.splits,
        val=options.val or earlier.val,
        keep_overlap=options.keep_overlap or earlier.keep_overlap,
    )


@dataclass(frozen=True)
class Progress:
    """What is shown while a call works: as the commands show it, or nothing.

    On a terminal bars; elsewhere, as in a notebook or a job's log, plain lines, which need nothing installed.
    """

    shown: bool

    @property
    def console(self) -> Console:
        """On stderr, which a notebook shows in its cell."""
        return Console(stderr=True, quiet=not self.shown)

    def say(self, text: str) -> None:
        """A line of what is being done."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, notes: list[str]) -> None:
        """What a caller may not expect; the result has it too."""
        for text in notes:
            self.say(f"note: {text}")

    @contextmanager
    def preparing(self) -> Iterator[Callable[[int, int], None] | None]:
        """What `prepare` and `answers` report to."""
        with ExitStack() as stack:
            yield stack.enter_context(preparation_bar(self.console)) if self.shown else None

    @contextmanager
    def seeds(self, seeds: int, epochs: int) -> Iterator[Reporter]:
        """What `train_seeds` reports to."""
        with ExitStack() as stack:
            yield stack.enter_context(seeds_bar(self.console, seeds, epochs)) if self.shown else _nothing


def _nothing(seed: int, metrics: dict[str, Any]) -> None:
    pass
