"""What a sweep is to do, written to its run folder: a resumed sweep takes it from there."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from raygap.config import MODALITIES, TrialConfig, load_yaml, with_whole_paths
from raygap.data.clips import ReaderOptions
from raygap.data.fit import Fit
from raygap.data.readers import find_reader
from raygap.errors import UserError
from raygap.locks import lock
from raygap.provenance import made_by
from raygap.schema import from_mapping, to_mapping
from raygap.search.known import Known, known_before, wants_pool
from raygap.search.shorten import shorten_stages
from raygap.search.space import SearchSpace, check_method, check_space, drop_inert, load_space, parse_space
from raygap.search.stopping import make_rule
from raygap.storage import Copies, Storage
from raygap.tracking.objectives import ONE_MODALITY, parse_metric
from raygap.tracking.run_folder import PLAN, write_text
from raygap.tracking.wandb.layout import Mode

MADE_BY = "made_by"
"""Beside the plan, in its file: what wrote it first, and on which host. No part of what a sweep is to do."""
STORES = ".stores"
"""Folder beside the run folders of an object store in which their machines find what they train on."""


AUTO = "auto"
Sampler = Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"]


@dataclass(frozen=True)
class Plan:
    """`fixed` and `space` by dotted path, as in a search space's file.

    The search ends, and stops what still runs, once its trials took `trial_seconds` together. `stopper`, one of
    STOPPERS, stops trials early; `patience` trials in a row without improvement end the search, too. `own_trunk` keeps
    its warm-ups from other sweeps. `known` configurations are tried first, and the scores of the first `pool` plain
    trials are the history of those that want one (0: each trains its own); `learn_from` is a run folder whose trials
    the sampler knows. With `references` the test seeds also train what the chosen configuration is compared with.
    The weights of the `keep_top` best trials stay in the run folder, and more than one become an ensemble.
    `storage` is the URI of the run folder's copy in an object store, beside which the stores are kept. `notes` say what
    was made of the search space that the user may not expect.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", allow_inf_nan=False)

    dataset: str
    root: str | None
    trials: Annotated[int, Field(ge=1)]
    fixed: dict[str, Any]
    space: dict[str, dict[str, Any]]
    cache: str
    test_seeds: Annotated[int, Field(ge=0)] = 3
    references: bool = True
    max_quarantine: Annotated[float, Field(ge=0, le=1)] = 0.05
    trunk_gb: Annotated[float, Field(ge=0)] = 20.0
    trial_seconds: float | None = None
    stopper: str = "asha"
    own_trunk: bool = False
    concurrency: Annotated[int, Field(ge=1)] | None = None
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    gpus_per_worker: Annotated[float, Field(ge=0)] | Literal["auto"] | None = None
    wandb: Mode | None = None
    wandb_project: str | None = None
    wandb_entity: str | None = None
    storage: str | None = None
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    sampler: Sampler = "tpe"
    metric: str = "accuracy"
    patience: Annotated[int, Field(ge=1)] | None = None
    seeds_per_trial: Annotated[int, Field(ge=1)] = 1
    keep_top: Annotated[int, Field(ge=1)] = 1
    known: tuple[Known, ...] = ()
    pool: Annotated[int, Field(ge=0)] = 0
    learn_from: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def search_space(self) -> SearchSpace:
        """What is held fixed and searched."""
        return SearchSpace(self.fixed, self.space, self.trials)

    def copies(self, store: Path) -> Copies | None:
        """Where machines that share no folder find this store, and keep the run."""
        kept = self.storage and Storage(self.storage)
        return Copies(kept.at("..", STORES, store.name), kept) if kept else None

    def check(self, source: str = "search space") -> TrialConfig:
        """Raise UserError for whatever would make a trial fail; see check_space for what is returned."""
        config = check_space(self.search_space, source)
        objectives = parse_metric(self.metric)
        one = [method for method in self.search_space.methods if method in ONE_MODALITY]
        if one and any(objective.name == "worst_modality" for objective in objectives):
            raise UserError(f"--metric {self.metric}: {one[0]} has one modality; judge it on another metric")
        if self.sampler == "cmaes" and len(objectives) > 1:
            raise UserError(f"--metric {self.metric}: the sampler cmaes knows one metric; take tpe, gp, qmc or random")
        if self.seeds_per_trial > 1 and len(objectives) > 1:
            raise UserError(f"--seeds-per-trial {self.seeds_per_trial}: takes one metric, not {self.metric}")
        if self.keep_top > 1 and config.protocol == "paper":
            raise UserError(
                f"--keep-top {self.keep_top}: an ensemble is chosen on validation, which protocol paper trains on; "
                "leave one out"
            )
        make_rule(self.stopper, config.epochs)
        last = {"seed": config.seed + self.seeds_per_trial - 1 + self.test_seeds}
        from_mapping(to_mapping(config) | last, "the seeds of the test")
        return config


def make_plan(
    dataset: str,
    method: str | None,
    space_file: Path | SearchSpace | None,
    fixed: dict[str, Any],
    first: Sequence[str] = (),
    fit: Fit | None = None,
    **others: Any,
) -> Plan:
    """A plan from what the user gave; `fixed` wins over the search space, whose field is then not searched.

    Fields that cannot act are not searched either, and stages too long for the epochs that were asked for are
    shortened. `first` are sources of configurations to be tried first, `fit` is what was chosen for the clips. `others`
    are fields of Plan as they are. Raises UserError for an unknown data set, method, field or distribution.
    """
    find_reader(dataset)
    if method:
        check_method(method)
    if method and fixed.get("method", method) != method:
        raise UserError(f"--method {method} and --set method={fixed['method']} contradict each other; leave one out")
    space, shortened = shorten_stages(load_space(dataset, fixed.get("method") or method, space_file, fit), fixed)
    of_both = {f"model.{modality}.encoder" for modality in MODALITIES if "model.encoder" in fixed}
    searched = {path: entry for path, entry in space.space.items() if path not in fixed.keys() | of_both}
    space, dropped = drop_inert(SearchSpace(space.fixed | with_whole_paths(fixed), searched, space.trials))
    if dropped and not space.space:
        raise UserError(f"{space_file if isinstance(space_file, Path) else dataset}: nothing to search; {dropped}")
    settings: dict[str, Any] = {
        "trials": space.trials,
        "notes": (*(fit.lines if fit else ()), *(note for note in (shortened, dropped) if note)),
    } | others
    held = fixed.keys() - {"method"}
    named = method or fixed.get("method") or space.fixed["method"]
    also = {path: value for path, value in fit.also.items() if path in space.space} if fit else None
    known = known_before(dataset, named, space, held, settings["trials"], first, also)
    plain = sum(one.plain for one in known)
    pool = plain if plain > 1 and wants_pool(known, space) else 0
    return Plan(dataset=dataset, fixed=space.fixed, space=space.space, known=known, pool=pool, **settings)


def trial_fields(
    dataset: str, config: dict[str, Any], given: dict[str, Any], fit: Fit | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The fields of one training, by dotted path, and what the user may not expect of them.

    `given` wins over `config`, a file's. What neither has is as `fit` or the data set's space fixes it, so that a
    training is of the same data as a sweep; but a whole configuration, as raygap writes it, stands alone.
    """
    find_reader(dataset)
    method = given.get("method") or config.get("method")
    beneath = {} if "schema_version" in config else load_space(dataset, method, None, fit).fixed
    space, first = shorten_stages(SearchSpace(beneath, {}), config | given)
    space, second = shorten_stages(SearchSpace(space.fixed | config, {}), given)
    return with_whole_paths(space.fixed | given), [
        *(fit.lines if fit else ()),
        *(note for note in (first, second) if note),
    ]


def make_folder(folder: Path, new: bool) -> None:
    """Make the run folder. Raises UserError if it cannot be written, or if it should be new and is not."""
    if new and (folder / PLAN).exists():
        raise UserError(f"{folder}: holds a sweep already; continue it with --resume, or choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None


def write_plan(plan: Plan, folder: Path) -> None:
    """Note the plan in the run folder, and what began the sweep: one that goes on keeps what the file says of that."""
    file, begun = folder / PLAN, {}
    if file.exists():
        with suppress(UserError):  # damaged, and mended by this
            begun = {name: facts for name, facts in load_yaml(file).items() if name == MADE_BY}
    else:
        begun = {MADE_BY: made_by() | {"host": platform.node()}}
    write_text(file, yaml.safe_dump(asdict(plan) | begun, sort_keys=False))


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder. Raises UserError if there is none."""
    if not (folder / PLAN).exists():
        raise UserError(f"{folder}: holds no sweep ({PLAN} is missing)")
    content = load_yaml(folder / PLAN)
    content.pop(MADE_BY, None)
    content.pop("judged_after", None)  # of older run folders, whose early stopping had one rung
    space = parse_space(content, str(folder / PLAN), 1)
    return read_as(Plan, content | {"fixed": space.fixed, "space": space.space}, folder / PLAN)


Noted = TypeVar("Noted")


def read_as(kind: type[Noted], content: dict[str, Any], file: Path) -> Noted:
    """A dataclass of what a file holds, which its user may have changed. Raises UserError naming file and field."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("unexpected_keyword_argument", "missing_argument", "missing"):
            raise UserError(f"{file}: {path}: {first['msg']}") from None
        raise UserError(f"{file}: {path} = {first['input']!r}: {first['msg']}") from None


def newest_run(runs: Path, dataset: str) -> Path:
    """The youngest run folder of a data set. Raises UserError if there is none."""
    plans = sorted(runs.glob(f"*/{PLAN}"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in plans:
        with suppress(UserError):  # a damaged plan concerns its own folder only
            if read_plan(file.parent).dataset == dataset:
                return file.parent
    raise UserError(f"{runs}: holds no sweep of {dataset} to resume; leave --resume out, or name its folder with --out")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process, where its file system has locks (see lock); a killed process lets go.

    Raises UserError if another sweep holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            lock(file)
        except BlockingIOError:
            raise UserError(f"{folder}: another sweep is at work in it; wait for it or stop it") from None
        yield
