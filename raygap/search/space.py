"""Search spaces: YAML files that hold some fields fixed and give others a Ray Tune distribution by its Ray name.

trials: 50
fixed:
  epochs: 12
space:
  warmup.epochs: {randint: [2, 6]}          # as in Ray, the upper end of randint is exclusive
  loss.align_weight: {loguniform: [0.05, 2.0]}
  model.fusion: {choice: [concat, sum]}
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygap.config import TrialConfig, flatten, load_yaml
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.plugins import is_plugin
from raygap.schema import can_act, check_known, field_paths, from_mapping, why_inert
from raygap.training.check import check_trial

if TYPE_CHECKING:  # a space is checked without Ray, whose import takes seconds
    from ray.tune.search.sample import Domain

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
    """`fixed` and `space` as flat dicts by dotted path; a distribution is {ray name: arguments}."""

    fixed: dict[str, Any]
    space: dict[str, dict[str, list]]
    trials: int = DEFAULT_TRIALS

    def domains(self) -> dict[str, "Domain"]:
        """Ray Tune's objects, by dotted path."""
        from ray import tune

        domains = {}
        for path, entry in self.space.items():
            name, arguments = distribution(path, entry, "space")
            domains[path] = tune.choice(arguments) if name == "choice" else getattr(tune, name)(*arguments)
        return domains


def check_method(name: str) -> None:
    """Raise UserError unless a method, or a preset of one, has this name."""
    if name not in PRESETS:
        find_method(name)


def load_space(dataset: str, method: str | None, file: Path | None) -> SearchSpace:
    """The space of a data set, with that of the method or preset laid over it where it has one; or that of `file`.

    This alone decides what a command takes for a field that its user does not give, so that all read the same store:
    also under a file of one's own lie the data set's prepare.* fields, and the stages that the method cannot have.
    `method` None takes the method that the file or the data set's fixes. Raises UserError.
    """
    if not FOLDER.is_dir():
        raise UserError(f"{FOLDER}: raygap's search spaces are missing; install raygap as a whole")
    by_dataset = FOLDER / f"{'manifest' if is_plugin(dataset) else dataset}.yaml"  # both are clips of one's own
    base = read_space(by_dataset) if by_dataset.exists() else SearchSpace({}, {})
    top = read_space(file, method) if file else base
    method = method or top.fixed.get("method", TrialConfig().method)
    by_method = FOLDER / f"{method}.yaml"
    own = read_space(by_method) if by_method.exists() else None
    # What is fixed for the data set is so for methods that have it; what is searched, drop_inert looks through.
    known = field_paths(own.fixed.get("method", method) if own else method)  # a preset's file names its method
    base = replace(base, fixed={path: value for path, value in base.fixed.items() if path in known})
    if file:
        beneath = {path: value for path, value in base.fixed.items() if path.startswith("prepare.")}
        stages = {path: value for path, value in (own.fixed if own else {}).items() if path.endswith(".epochs")}
        beneath |= {path: value for path, value in stages.items() if path not in top.space}
        return SearchSpace(beneath | top.fixed | {"method": method}, top.space, top.trials)
    if own:
        return SearchSpace(base.fixed | {"method": method} | own.fixed, own.space, base.trials)
    return SearchSpace(base.fixed | {"method": method}, base.space, base.trials)


def read_space(file: Path, method: str | None = None) -> SearchSpace:
    """Read one file, for this method where the file does not name another. Raises UserError naming file and field."""
    content = load_yaml(file)
    unknown = [key for key in content if key not in ("fixed", "space", "trials")]
    if unknown:
        raise UserError(f"{file}: unknown key {unknown[0]!r}; the keys are trials, fixed and space")
    trials = content.get("trials", DEFAULT_TRIALS)
    if not isinstance(trials, int) or isinstance(trials, bool) or trials < 1:
        raise UserError(f"{file}: trials = {trials!r}: expected a whole number from 1 on")
    return parse_space(content, str(file), trials, method)


def parse_space(content: Mapping[str, Any], source: str, trials: int, method: str | None = None) -> SearchSpace:
    """`fixed` and `space` of a file's content. Raises UserError naming the file and the field."""
    for key in ("fixed", "space"):
        if not isinstance(content.get(key) or {}, Mapping):
            raise UserError(f"{source}: {key}: expected a mapping of fields")
    fixed = flatten(content.get("fixed") or {})
    methods = (str(fixed.get("method", method or "")),)
    for path in fixed:
        check_known(path, f"{source}: fixed", methods)
    space = {str(path): entry for path, entry in (content.get("space") or {}).items()}
    for path, entry in space.items():
        check_known(path, f"{source}: space", methods)
        distribution(path, entry, f"{source}: space")
    return SearchSpace(fixed, space, trials)


def drop_inert(space: SearchSpace) -> tuple[SearchSpace, str]:
    """The space without the fields that can act in no trial of it, and a line that names them; empty if all can."""
    known = field_paths(space.fixed["method"])
    dropped: dict[str, str] = {}
    while True:
        searched = {path: entry for path, entry in space.space.items() if path not in dropped}

        def values(path: str, searched: dict[str, Any] = searched) -> list[Any]:
            return ends(path, searched[path]) if path in searched else [space.fixed.get(path, known[path].default)]

        inert = {path: why_inert(path, values) for path in searched if not can_act(path, values)}
        if not inert:
            break
        dropped |= inert  # without them others may have lost what they need
    kept = {path: entry for path, entry in space.space.items() if path not in dropped}
    reasons = ", ".join(f"{path} ({reason})" for path, reason in dropped.items())
    return SearchSpace(space.fixed, kept, space.trials), reasons and f"not searched, as it cannot act here: {reasons}"


NOT_SEARCHED = {
    "epochs": "trials are compared at equal length; fix it, or give --epochs",
    "seed": "a lucky seed is no better configuration; the seeds of the test tell how much it matters",
    "method": "run a sweep for each method",
    "schema_version": "it is no hyperparameter",
    "prepare": "all trials share one store; fix it",
    "protocol": "it says what a trial is judged on, and so must be the same for all",
    "select_epoch": "it says how a trial is judged, and so must be the same for all",
    "compute.threads": "trials share the machine in equal parts; fix it",
    "compute.workers": "all trials get equal places in the cluster; give --workers-per-trial",
}


def check_space(space: SearchSpace, source: str) -> TrialConfig:
    """Raise UserError if some point of the space is no valid configuration, or nothing is searched.

    Bounds are checked end by end, choices two by two, and the stages at their longest, so that no trial can fail on its
    configuration. Returns the configuration with its stages at their longest, choices at their first value, and the
    other searched fields at their defaults.
    """
    if not space.space:
        raise UserError(f"{source}: nothing to search; name at least one field under space")
    for path in space.space:
        for name, reason in NOT_SEARCHED.items():
            if path == name or path.startswith(f"{name}."):
                raise UserError(f"{source}: {path} cannot be searched: {reason}")
    values_of = {path: ends(path, entry) for path, entry in space.space.items()}
    choices = {path: values_of[path] for path, entry in space.space.items() if "choice" in entry}
    stages = {path: values for path, values in values_of.items() if path.endswith(".epochs")}
    # Under what is checked lies a point of the space: a default may be none, and fit to nothing in it.
    point = space.fixed | {path: values[0] for path, values in (choices | stages).items()}
    for path, values in values_of.items():
        for value in values:
            _check(point | {path: value}, source)
    for (one, values), (other, other_values) in combinations(choices.items(), 2):
        for value, other_value in product(values, other_values):
            _check(point | {one: value, other: other_value}, source)
    return _check(point | {path: max(values) for path, values in stages.items()}, source)


def _check(fields: dict[str, Any], source: str) -> TrialConfig:
    config = from_mapping(fields, source)
    try:
        check_trial(config)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return config


def distribution(path: str, entry: Any, source: str) -> tuple[str, list[Any]]:
    """The name and the arguments of {ray name: arguments}. Raises UserError for what Ray Tune would not take."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise UserError(f"{source}: {path}: expected one distribution, for example {{uniform: [0, 1]}}")
    [(name, arguments)] = entry.items()
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
