"""Search spaces: YAML files that hold some fields fixed and give others a distribution by its name in Ray Tune.

trials: 50
fixed:
  epochs: 12
space:
  warmup.epochs: {randint: [2, 6]}          # as in Ray, the upper end of randint is exclusive
  loss.align_weight: {loguniform: [0.05, 2.0]}
  model.fusion: {choice: [concat, sum]}
  purify.epochs: {choice: [0, 4, 10]}
  purify.threshold: {uniform: [0.2, 0.9], when: {purify.epochs: [4, 10]}}

`meant_for: 32` says of how many epochs the stages' lengths are a share: they are as long in proportion in others.

A trial is asked for a field only where it can act: as its mark in the schema says (acts_when), and its own `when`.
Where it is not asked for, and where a search begins, it has the value that is fixed for it, else its default.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygap.config import TrialConfig, flatten, load_yaml, with_whole_paths
from raygap.data.fit import Fit
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.plugins import is_plugin
from raygap.schema import (
    can_act,
    check_known,
    check_path,
    field_paths,
    from_mapping,
    in_words,
    meets,
    named_in_marks,
    why_inert,
)
from raygap.training.check import check_trial

if TYPE_CHECKING:  # a space is checked without Optuna, whose import takes half a second
    from optuna.distributions import BaseDistribution

_PACKAGE = Path(__file__).resolve().parents[1]
# In the package where it was installed, beside it in a checkout.
_INSTALLED = _PACKAGE / "search_spaces"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "search_spaces"
DEFAULT_TRIALS = 50
PRESETS = ("dus_heuristic", "dus_ppo")
"""Names for a method with some of its fields fixed, by a file in FOLDER: searched and compared as methods are."""
SEARCHABLE = (*METHODS, *PRESETS)
# Ray's other distributions have no counterpart in Optuna.
DISTRIBUTIONS = ("uniform", "quniform", "loguniform", "randint", "qrandint", "lograndint", "choice")


@dataclass(frozen=True)
class SearchSpace:
    """`fixed` and `space` as flat dicts by dotted path; a distribution is {ray name: arguments}, with `when` behind.

    `meant_for` is the number of epochs of which the lengths of its stages are a share; None: they are lengths.
    """

    fixed: dict[str, Any]
    space: dict[str, dict[str, Any]]
    trials: int = DEFAULT_TRIALS
    meant_for: int | None = None

    @property
    def methods(self) -> list[str]:
        """Those that its trials may have."""
        if "method" in self.space:
            return ends("method", self.space["method"])
        return [self.fixed.get("method", TrialConfig.model_fields["method"].default)]

    def values(self, path: str) -> list[Any]:
        """Of a searched field its ends, and what conditions ask of it; of another the one that it has."""
        if path not in self.space:
            return [self.start(path)]
        named = [entry.get("when", {}).get(path, []) for entry in self.space.values()]
        asked = [value for values in named for value in (values if isinstance(values, list) else [values])]
        own = ends(path, self.space[path])
        return own + [value for value in asked if value not in own and holds(path, self.space[path], value)]

    def start(self, path: str, method: str | None = None) -> Any:
        """What a field has where nothing is suggested for it; None if no method, nor this one, has it."""
        if path in self.fixed:
            return self.fixed[path]
        known = (field_paths(name) for name in ([method] if method else self.methods))
        return next((fields[path].default for fields in known if path in fields), None)

    @cached_property
    def order(self) -> list[str]:
        """The searched fields as they stand, each behind those that decide whether it acts."""
        named = {path: self._named(path) & self.space.keys() - {path} for path in self.space}
        asked = {path: entry.get("when", {}).keys() & self.space.keys() for path, entry in self.space.items()}
        ordered: list[str] = []
        while left := [path for path in self.space if path not in ordered]:
            # Marks of two fields may name each other, as two factors of one term do; then the first is always asked.
            free = next((path for path in left if named[path] <= set(ordered)), None)
            free = free or next((path for path in left if asked[path] <= set(ordered)), None)
            if free is None:
                raise UserError(f"when: {', '.join(left)} wait for each other; leave the condition of one of them out")
            ordered.append(free)
        return ordered

    def _named(self, path: str) -> set[str]:
        return named_in_marks(path, self.methods) | set(self.space[path].get("when", {}))

    def ask(self, draw: Callable[[str], Any], beside: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The fields that a trial is asked for, with what `draw` gives for each; none of `beside`, which it has."""
        have = {**self.fixed, **(beside or {})}
        method = have.get("method", self.methods[0])
        drawn: dict[str, Any] = {}
        waiting = [path for path in self.order if path not in (beside or {})]
        for number, path in enumerate(waiting):

            def values(other: str, later: list[str] = waiting[number + 1 :], method: str = method) -> Iterable[Any]:
                if other in later:
                    return self.values(other)
                return (drawn[other] if other in drawn else have.get(other, self.start(other, method)),)

            wanted = self.space[path].get("when", {})
            if can_act(path, values) and all(
                any(meets(value, asked) for value in values(other)) for other, asked in wanted.items()
            ):
                drawn[path] = draw(path)
                method = drawn.get("method", method)
        return drawn

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna's objects, by dotted path."""
        return {path: _distribution(path, entry) for path, entry in self.space.items()}


def _distribution(path: str, entry: dict[str, Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    name, arguments = distribution(path, entry, "space")
    if name == "choice":
        return CategoricalDistribution(arguments)
    low, high, *step = arguments
    log = "log" in name
    if not name.endswith("int"):
        return FloatDistribution(low, high, log=log, step=step[0] if step else None)
    return IntDistribution(low, high if step else high - 1, log=log, step=step[0] if step else 1)


def holds(path: str, entry: dict[str, Any], value: Any) -> bool:
    """Whether a distribution may give a value."""
    name, arguments = distribution(path, entry, "space")
    if name == "choice":
        return value in arguments
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high, *step = arguments
    if name.endswith("int") and (not float(value).is_integer() or (not step and value == high)):
        return False
    return low <= value <= high and (not step or _divisible(value - low, step[0]))


def check_method(name: str) -> None:
    """Raise UserError unless a method, or a preset of one, has this name."""
    if name not in PRESETS:
        find_method(name)


def load_space(
    dataset: str, method: str | None, file: Path | SearchSpace | None, fit: Fit | None = None
) -> SearchSpace:
    """The space of a data set, with that of the method or preset laid over it where it has one; or that of `file`.

    This alone decides what a command takes for a field that its user does not give, so that all read the same store:
    also under a file of one's own lie the data set's prepare.* fields, and the stages that the method cannot have.
    `method` None takes the method that the file or the data set's fixes. `fit`, chosen for the clips, lies over what
    the data set's fixes. Raises UserError.
    """
    if not FOLDER.is_dir():
        raise UserError(f"{FOLDER}: raygap's search spaces are missing; install raygap as a whole")
    by_dataset = FOLDER / f"{'manifest' if is_plugin(dataset) else dataset}.yaml"  # both are clips of one's own
    base = read_space(by_dataset) if by_dataset.exists() else SearchSpace({}, {})
    base = _fitted(base, fit) if fit else base
    read = file if isinstance(file, SearchSpace) else file and read_space(file, *([method] if method else []))
    top = read or base
    if method:
        top = replace(top, space={path: entry for path, entry in top.space.items() if path != "method"})
    if "method" in top.space:
        method = top.fixed.get("method", top.methods[0])
        beneath = {path: value for path, value in base.fixed.items() if file and path.startswith("prepare.")}
        return SearchSpace(beneath | top.fixed | {"method": method}, top.space, top.trials)
    method = method or top.fixed.get("method", TrialConfig().method)
    by_method = FOLDER / f"{method}.yaml"
    own = read_space(by_method) if by_method.exists() else None
    # What is fixed or searched for the data set is so for methods that have it; of one's own drop_inert says so.
    known = field_paths(own.fixed.get("method", method) if own else method)  # a preset's file names its method
    of_method = [{path: value for path, value in part.items() if path in known} for part in (base.fixed, base.space)]
    base = replace(base, fixed=of_method[0], space=base.space if is_plugin(method) else of_method[1])
    if file:
        beneath = {path: value for path, value in base.fixed.items() if path.startswith("prepare.")}
        # Of a preset all that it fixes, which is what it is.
        held = {
            path: v for path, v in (own.fixed if own else {}).items() if method in PRESETS or path.endswith(".epochs")
        }
        beneath |= {path: value for path, value in held.items() if path not in top.space}
        named = {"method": held.get("method", method)}
        return SearchSpace(beneath | top.fixed | named, top.space, top.trials, top.meant_for)
    if own:
        # Spaces of data sets are of guided methods: theirs say what they have beside it.
        if find_method(own.fixed.get("method", method)).guided:
            return replace(base, fixed=base.fixed | own.fixed | {"method": method}, space=base.space | own.space)
        return SearchSpace(base.fixed | {"method": method} | own.fixed, own.space, base.trials, own.meant_for)
    return SearchSpace(base.fixed | {"method": method}, base.space, base.trials, base.meant_for)


def _fitted(base: SearchSpace, fit: Fit) -> SearchSpace:
    meant_for = base.fixed.get("epochs", TrialConfig().epochs)
    return SearchSpace(base.fixed | fit.fields, base.space | fit.searched, fit.trials or base.trials, meant_for)


def read_space(file: Path, *methods: str) -> SearchSpace:
    """Read one file, for these methods where the file does not name another. Raises UserError naming file and field."""
    content = load_yaml(file)
    unknown = [key for key in content if key not in ("fixed", "space", "trials", "meant_for")]
    if unknown:
        raise UserError(f"{file}: unknown key {unknown[0]!r}; the keys are trials, fixed, space and meant_for")
    for key in ("trials", "meant_for"):
        if key in content and (type(content[key]) is not int or content[key] < 1):
            raise UserError(f"{file}: {key} = {content[key]!r}: expected a whole number from 1 on")
    space = parse_space(content, str(file), content.get("trials", DEFAULT_TRIALS), *methods)
    return replace(space, meant_for=content.get("meant_for"))


def parse_space(content: Mapping[str, Any], source: str, trials: int, *methods: str) -> SearchSpace:
    """`fixed` and `space` of a file's content. Raises UserError naming the file and the field."""
    for key in ("fixed", "space"):
        if not isinstance(content.get(key) or {}, Mapping):
            raise UserError(f"{source}: {key}: expected a mapping of fields")
    fixed = flatten(content.get("fixed") or {})
    space = {str(path): entry for path, entry in (content.get("space") or {}).items()}
    methods = (*([str(fixed["method"])] if "method" in fixed else methods), *_choices(space.get("method")))
    for path in fixed:
        check_known(path, f"{source}: fixed", methods)
    for path, entry in space.items():
        check_known(path, f"{source}: space", methods)
        name, _ = distribution(path, entry, f"{source}: space")
        when = entry.get("when", {})
        if not isinstance(when, Mapping):
            raise UserError(f"{source}: {path}: when: expected a mapping of fields to values")
        when = flatten(when)
        for other in when:
            check_known(other, f"{source}: {path}: when", methods)
        space[path] = {name: entry[name]} | ({"when": when} if when else {})
    searched = SearchSpace(with_whole_paths(fixed), with_whole_paths(space), trials)
    try:
        searched.order  # noqa: B018
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return searched


def _choices(entry: Any) -> list[str]:
    """The methods that a space's file names, which may hold anything."""
    choices = entry.get("choice") if isinstance(entry, Mapping) else None
    return [str(choice) for choice in choices] if isinstance(choices, list) else []


def drop_inert(space: SearchSpace) -> tuple[SearchSpace, str]:
    """The space without the fields that can act in no trial of it, and a line that names them; empty if all can."""
    dropped: dict[str, str] = {}
    while True:
        kept = replace(space, space={path: entry for path, entry in space.space.items() if path not in dropped})
        inert = {path: why for path in kept.space if (why := _why_inert(path, kept))}
        if not inert:
            break
        dropped |= inert  # without them others may have lost what they need
    reasons = ", ".join(f"{path} ({reason})" for path, reason in dropped.items())
    return kept, reasons and f"not searched, as it cannot act here: {reasons}"


def _why_inert(path: str, space: SearchSpace) -> str:
    if not can_act(path, space.values):
        return why_inert(path, space.values)
    lacking = [
        f"{other} {in_words(condition)}"
        for other, condition in space.space[path].get("when", {}).items()
        if not any(meets(value, condition) for value in space.values(other))
    ]
    return f"needs {' and '.join(lacking)}" if lacking else ""


NOT_SEARCHED = {
    "epochs": "trials are compared at equal length; fix it, or give --epochs",
    "seed": "a lucky seed is no better configuration; the seeds of the test tell how much it matters",
    "schema_version": "it is no hyperparameter",
    "prepare": "all trials share one store; fix it",
    "protocol": "it says what a trial is judged on, and so must be the same for all",
    "select_epoch": "it says how a trial is judged, and so must be the same for all",
    "history": "all trials of a sweep share one; fix it",
    "compute.threads": "trials share the machine in equal parts; fix it",
    "compute.workers": "all trials get equal places in the cluster; give --workers-per-trial",
}


def check_space(space: SearchSpace, source: str) -> TrialConfig:
    """Raise UserError if some point of the space is no valid configuration, or nothing is searched.

    Bounds are checked end by end, choices two by two, and the stages at their longest, so that no trial can fail on its
    configuration. Returns the configuration with its stages at their longest, choices at their first value, and the
    other searched fields as they begin.
    """
    if not space.space:
        raise UserError(f"{source}: nothing to search; name at least one field under space")
    for path in space.space:
        for name, reason in NOT_SEARCHED.items():
            if path == name or path.startswith(f"{name}."):
                raise UserError(f"{source}: {path} cannot be searched: {reason}")
    for path in (*space.fixed, *space.space):
        if not any(path in field_paths(method) for method in space.methods):
            check_path(path, source, space.methods[0])
    choices = [path for path, entry in space.space.items() if "choice" in entry]
    for path in space.space:
        for value in space.values(path):
            _check_point(space, {path: value}, source)
    for one, other in combinations(choices, 2):
        for value, other_value in product(space.values(one), space.values(other)):
            _check_point(space, {one: value, other: other_value}, source)
    stages = {path: max(space.values(path)) for path in space.space if path.endswith(".epochs")}
    return _check_point(space, stages, source) or _check(own_fields(space.fixed, space.ask(space.start)), source)


def _check_point(space: SearchSpace, wanted: dict[str, Any], source: str) -> TrialConfig | None:
    """Check a trial that is asked for these fields, and gets these values; None if there is none."""
    deciding = list(dict.fromkeys(_deciding(space, wanted)))
    for values in product(*map(space.values, deciding)):
        # Where it does not matter, a point of the space: a default may be none, and fit to nothing in it.
        given = dict(zip(deciding, values, strict=True)) | wanted

        def draw(path: str, given: dict[str, Any] = given) -> Any:
            listed = "choice" in space.space[path] or path.endswith(".epochs")
            return given[path] if path in given else space.values(path)[0] if listed else space.start(path)

        asked = space.ask(draw)
        if wanted.keys() <= asked.keys():
            return _check(own_fields(space.fixed, asked), source)
    return None


def _deciding(space: SearchSpace, wanted: Iterable[str]) -> Iterable[str]:
    """The other searched fields that decide whether these are asked for."""
    found, left = set(wanted), list(wanted)
    while left:
        for other in space.order:
            if other in space._named(left[0]) and other not in found:
                found.add(other)
                left.append(other)
                yield other
        left.pop(0)


def own_fields(fixed: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a trial: what it sets itself, over those of the sweep's that its method has."""
    fields = {**fixed, **own}
    known = field_paths(fields.get("method", TrialConfig.model_fields["method"].default))
    return {path: value for path, value in fields.items() if path in known or path in own}


def _check(fields: dict[str, Any], source: str) -> TrialConfig:
    config = from_mapping(fields, source)
    try:
        check_trial(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def distribution(path: str, entry: Any, source: str) -> tuple[str, list[Any]]:
    """The name and the arguments of {ray name: arguments}. Raises UserError for what Ray Tune would not take."""
    named = (
        {name: arguments for name, arguments in entry.items() if name != "when"} if isinstance(entry, Mapping) else {}
    )
    if len(named) != 1:
        raise UserError(f"{source}: {path}: expected one distribution, for example {{uniform: [0, 1]}}")
    [(name, arguments)] = named.items()
    if name not in DISTRIBUTIONS:
        raise UserError(f"{source}: {path}: unknown distribution {name!r}; use one of {', '.join(DISTRIBUTIONS)}")
    if not isinstance(arguments, list) or not arguments:
        raise UserError(f"{source}: {path}: {name} needs a non-empty list, for example {{{name}: [1, 2]}}")
    if name == "choice":
        return name, arguments
    try:
        low, high, *step = (float(a) for a in arguments)
    except (TypeError, ValueError):
        raise UserError(f"{source}: {path}: {name} needs two or three numbers, not {arguments}") from None
    if not all(math.isfinite(value) for value in (low, high, *step)):
        raise UserError(f"{source}: {path}: {name} needs finite numbers, not {arguments}")
    whole = name.endswith("int")
    if len(step) != name.startswith("q"):
        wanted = "lower, upper and step" if name.startswith("q") else "lower and upper"
        raise UserError(f"{source}: {path}: {name} needs {wanted}, not {arguments}")
    if whole and any(not float(a).is_integer() for a in arguments):
        raise UserError(f"{source}: {path}: {name} needs whole numbers, not {arguments}")
    if high <= low:
        raise UserError(f"{source}: {path}: the range {arguments} is empty; the upper end must exceed the lower")
    if "log" in name and low <= 0:
        raise UserError(f"{source}: {path}: {name} needs a lower end above 0, not {arguments[0]}")
    if step and step[0] <= 0:
        raise UserError(f"{source}: {path}: the step of {name} must exceed 0, not {arguments[2]}")
    values = [int(v) if whole else v for v in (low, high, *step)]
    if not whole and step and not all(_divisible(end, step[0]) for end in (low, high)):
        raise UserError(f"{source}: {path}: {name} {arguments}: both ends must be multiples of the step")
    return name, values


def _divisible(value: float, step: float) -> bool:
    """As Ray Tune asks of the ends of a range of numbers in steps."""
    steps = value / step
    return math.isfinite(steps) and math.isclose(steps, round(steps))


def ends(path: str, entry: dict[str, list]) -> list[Any]:
    """All values of a choice; the smallest and the largest value of a range, and one between where it is continuous."""
    name, arguments = distribution(path, entry, "space")
    if name == "choice":
        return arguments
    low, high, *step = arguments
    if step:
        return [low, high]
    # 16.0 would pass for a whole number where 19.3 would not.
    return [low, high - 1] if name.endswith("int") else [low, low + 0.381966 * (high - low), high]
