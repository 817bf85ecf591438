"""What a sweep is to do, written to its run folder: a resumed sweep takes it from there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raygap.config import TrialConfig, from_mapping, load_yaml, to_mapping
from raygap.data.clips import ReaderOptions
from raygap.data.readers import find_reader
from raygap.errors import UserError
from raygap.locks import lock
from raygap.search.space import SearchSpace, check_method, check_space, load_space
from raygap.storage import Copies, Storage
from raygap.tracking.run_folder import PLAN, write_text
from raygap.tracking.wandb.layout import Mode

STORES = ".stores"
"""Folder beside the run folders of an object store in which their machines find what they train on."""


@dataclass(frozen=True)
class Plan:
    """`fixed` and `space` by dotted path, as in a search space's file.

    The search ends, and stops what still runs, once its trials took `trial_seconds` together. Early stopping judges no
    trial before its longest warm-up is over, nor in the first `judged_after` epochs. `own_trunk` keeps its warm-ups
    from other sweeps. `storage` is the URI of the run folder's copy in an object store, beside which the stores are
    kept.
    """

    dataset: str
    root: str | None
    trials: int
    fixed: dict[str, Any]
    space: dict[str, dict[str, list]]
    cache: str
    test_seeds: int = 3
    max_quarantine: float = 0.05
    trunk_gb: float = 20.0
    trial_seconds: float | None = None
    judged_after: int = 0
    own_trunk: bool = False
    cpus_per_worker: float | None = None
    gpus_per_worker: float | None = None
    wandb: Mode | None = None
    wandb_project: str | None = None
    wandb_entity: str | None = None
    storage: str | None = None
    reader: ReaderOptions = field(default_factory=ReaderOptions)

    def copies(self, store: Path) -> Copies | None:
        """Where machines that share no folder find this store, and keep the run."""
        kept = self.storage and Storage(self.storage)
        return Copies(kept.at("..", STORES, store.name), kept) if kept else None

    def check(self) -> TrialConfig:
        """Raise UserError for whatever would make a trial fail; see check_space for what is returned."""
        config = check_space(SearchSpace(self.fixed, self.space), "search space")
        from_mapping(to_mapping(config) | {"seed": config.seed + self.test_seeds}, "the seeds of the test")
        return config


def make_plan(
    dataset: str,
    method: str | None,
    space_file: Path | None,
    fixed: dict[str, Any],
    **others: Any,
) -> Plan:
    """A plan from what the user gave; `fixed` wins over the search space, whose field is then not searched.

    `others` are fields of Plan as they are. Raises UserError for an unknown data set, method, field or distribution.
    """
    find_reader(dataset)
    if method:
        check_method(method)
    if method and fixed.get("method", method) != method:
        raise UserError(f"--method {method} and --set method={fixed['method']} contradict each other; leave one out")
    space = load_space(dataset, fixed.get("method") or method, space_file)
    searched = {path: entry for path, entry in space.space.items() if path not in fixed}
    settings = {"trials": space.trials} | others
    return Plan(dataset=dataset, fixed=space.fixed | fixed, space=searched, **settings)


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
    """Note the plan in the run folder."""
    write_text(folder / PLAN, yaml.safe_dump(asdict(plan), sort_keys=False))


def read_plan(folder: Path) -> Plan:
    """The plan of a run folder. Raises UserError if there is none."""
    if not (folder / PLAN).exists():
        raise UserError(f"{folder}: holds no sweep ({PLAN} is missing)")
    try:
        content = load_yaml(folder / PLAN)
        return Plan(**content | {"reader": ReaderOptions(**content.get("reader", {}))})
    except TypeError as error:
        raise UserError(f"{folder / PLAN}: not the plan of a sweep ({error})") from None


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
