"""Finding the best configurations again: in a run folder, in W&B's files, or at a W&B server."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygap.config import SCHEMA_VERSION, TrialConfig, flatten, load_yaml
from raygap.errors import UserError
from raygap.extras import need
from raygap.private import without_passwords
from raygap.schema import from_mapping
from raygap.tracking.objectives import parse_metric, study_objectives
from raygap.tracking.run_folder import BEST, COMPARISON, JOURNAL, PLAIN, PLAN, trial_folder
from raygap.tracking.wandb.entries import Entry, lower_is_better, of_runs
from raygap.tracking.wandb.files import read_runs, run_files
from raygap.tracking.wandb.layout import TRIAL, VALUE, trial_fields


@dataclass(frozen=True)
class Found:
    """A configuration, what it reached by `metric` (None: not told), and where it is from."""

    config: TrialConfig
    metric: str
    value: float | None
    where: str


def find_best(source: str, top: int = 1, metric: str | None = None) -> list[Found]:
    """The `top` best configurations of complete trials, best first; fewer if there are no more.

    `source`: a run folder, a comparison's (the best of all its methods), a folder with files of W&B, entity/project or
    entity/project/group at W&B, or the URL of a report there, of a project, a group or a run. `metric` is a column of
    metrics.parquet, of the selected epoch; None: what a run folder's trials were judged on first, else
    best_val_accuracy. Raises UserError, which names the source, for whatever cannot be found,
    reached, read or understood.
    """
    path = Path(source)
    inside = sorted(file.parent for file in path.glob(f"*/{PLAN}"))
    metric = metric or _judged_on([path, *inside])
    if source.startswith(("https://", "http://")):
        found = _at_server(source, top, metric, source)
    elif (path / JOURNAL).exists() or (path / PLAN).exists():
        found = _in_run_folder(path, metric)
    elif (path / COMPARISON).exists() and inside:
        found = _in_comparison(inside, metric)
    elif inside or list(path.glob(f"*/{COMPARISON}")):
        folders = inside or sorted(file.parent for file in path.glob(f"*/{COMPARISON}"))
        raise UserError(f"{source}: holds several data sets; give the folder of one: {', '.join(map(str, folders))}")
    elif path.exists() and run_files(path):
        found = _in_wandb_files(path, metric)
    elif (path / BEST).exists() and (top, metric) == (1, VALUE):
        found = [Entry(load_yaml(path / BEST), None, str(path / BEST))]
    elif path.exists():
        raise UserError(f"{source}: holds no sweep, and no files of W&B")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(/.+)?", source) and not Path(path.parts[0]).exists():
        found = _at_server(source, top, metric, f"{source} (no folder here, so looked for at W&B)")
    else:
        raise UserError(f"{source}: no such run folder; a source at W&B is entity/project, with /group, or a URL")
    if not found:
        raise UserError(f"{source}: no complete trial with {metric}")
    sign = 1 if lower_is_better(metric) else -1
    # Of equals the plain trial is the best, then the earliest, as in the sweep itself.
    ranked = sorted(found, key=lambda entry: (sign * (entry.value or 0), not entry.plain, entry.trial))[:top]
    return [
        Found(_checked(entry.config, entry.where), metric, entry.value, without_passwords(entry.where))
        for entry in ranked
    ]


def methods_compared(source: str) -> list[Path]:
    """The run folders that a comparison's best configuration is chosen from; empty for any other source."""
    folder = Path(source)
    if not (folder / COMPARISON).exists() or (folder / PLAN).exists():
        return []
    inside = sorted(file.parent for file in folder.glob(f"*/{PLAN}"))
    return [one for one in inside if not _chosen_on_test(one)]


def _chosen_on_test(folder: Path) -> bool:
    with suppress(UserError, KeyError, TypeError):
        return flatten(load_yaml(folder / PLAN)["fixed"]).get("protocol") == "paper"
    return False


def _judged_on(folders: list[Path]) -> str:
    for folder in folders:
        with suppress(UserError):
            return parse_metric(load_yaml(folder / PLAN).get("metric", "accuracy"))[0].column
    return VALUE


def _at_server(source: str, top: int, metric: str, called: str) -> list[Entry]:
    need("wandb", called)
    from raygap.tracking.wandb.queries import query  # imports W&B's client

    return query(source, top, metric, called)


def _in_comparison(folders: list[Path], metric: str) -> list[Entry]:
    """Of all methods together; but what was chosen on test has no place beside them."""
    entries = []
    for folder in folders:
        try:
            entries += [] if _chosen_on_test(folder) else _in_run_folder(folder, metric)
        except UserError as error:  # one that has not come so far costs no other
            if len(folders) == 1:
                raise UserError(f"{folder}: {error}") from None
    return entries


def _in_run_folder(folder: Path, metric: str) -> list[Entry]:
    from optuna.trial import TrialState  # takes half a second, which an error need not wait for

    from raygap.tracking.report.run import Absent, Run

    run = Run(folder)
    try:
        complete = run.of_state(TrialState.COMPLETE)
    except Absent as absent:
        raise UserError(f"{folder}: {str(absent)[0].lower()}{str(absent)[1:].rstrip('.')}") from None
    own = study_objectives(run.study)[0].column
    entries = []
    for trial in complete:
        files = trial_folder(folder, trial.number)
        value = trial.value if metric == own else _selected(files / "metrics.parquet", metric)
        if value is not None:
            config = load_yaml(files / "config.yaml")
            plain = bool(trial.user_attrs.get(PLAIN))
            entries.append(Entry(config, value, f"trial {trial.number}, {folder}", trial.number, plain))
    return entries


def _selected(file: Path, metric: str) -> float | None:
    """A metric of the selected epoch."""
    import pyarrow.parquet as pq

    if not file.exists():
        return None
    table = pq.read_table(file)
    if metric not in table.column_names:
        names = ", ".join(name for name in sorted(table.column_names) if name.startswith("val_"))
        raise UserError(f"--metric {metric}: {file} has no such column; it has {names} and others")
    epochs = table["epoch"].to_pylist()
    return table[metric][epochs.index(table["best_epoch"][-1].as_py())].as_py()


def _in_wandb_files(folder: Path, metric: str) -> list[Entry]:
    need("wandb", f"{folder}, files of W&B,")
    runs = [run for run in read_runs(folder).values() if run.job in (TRIAL, "")]
    if not any(trial_fields(run.config)[1] for run in runs):
        raise UserError(f"{folder}: {len(runs)} runs of W&B, none with a configuration of raygap's")
    return of_runs(((f"run {run.id}, {folder}", run.config, run.summary) for run in runs), metric)


def _checked(config: dict[str, Any], where: str) -> TrialConfig:
    version = config.get("schema_version")
    if version not in (1, SCHEMA_VERSION):
        raise UserError(
            f"{where}: a configuration of schema version {version}, this raygap reads 1 to {SCHEMA_VERSION}; "
            "use the raygap that wrote it"
        )
    return from_mapping(config, where)
