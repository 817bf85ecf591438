"""Where the data are that a task is about, and where its network."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raygap.data.clips import ReaderOptions
from raygap.data.fit import Fit, fitted
from raygap.data.prepared import default_cache, noted_source
from raygap.data.readers import find_reader, read_clips
from raygap.errors import UserError
from raygap.plugins import is_plugin
from raygap.tracking.run_folder import PLAN, read_ensemble, trial_folder

if TYPE_CHECKING:
    from raygap.training.inference import Classifier

Source = tuple[Path | None, ReaderOptions]
"""As read_clips takes it."""


def reader_options(
    splits: Path | None,
    val: Literal["stratified", "actors"] | None,
    keep_overlap: bool,
    exclude: Path | None = None,
) -> ReaderOptions:
    """The options of these names."""
    folder, file = (str(path.resolve()) if path else None for path in (splits, exclude))
    return ReaderOptions(folder, val, keep_overlap, file)


def find_source(
    dataset: str,
    root: Path | str | None,
    options: ReaderOptions,
    cache: Path | None,
    say: Callable[[str], None] = print,
) -> Source:
    """Where a data set is read from and how: as given, or, without a root, as `prepare` noted it in the cache.

    A given root wins over the whole note, a given option over the noted one. Nothing is opened: what was noted may be
    gone, and read_clips says so. Raises UserError for an unknown data set.
    """
    if root or not find_reader(dataset).root:
        return Path(root).resolve() if root else None, options
    noted = noted_source(cache or default_cache(), dataset)
    if noted is None:
        return None, options
    noted_root, earlier = noted
    say(f"reading {dataset} from {noted_root}, as prepared last")
    return noted_root, replace(
        earlier,
        splits=options.splits or earlier.splits,
        val=options.val or earlier.val,
        keep_overlap=options.keep_overlap or earlier.keep_overlap,
        exclude=options.exclude or earlier.exclude,
    )


def fit_of(dataset: str, source: Source, cache: Path | None, *, anew: bool = False) -> Fit | None:
    """The settings that suit clips of one's own (see fitted); None for other data sets, for features, and for clips
    that are not here, as where another machine is to read them.
    """
    root, options = source
    if not (dataset == "manifest" or is_plugin(dataset)) or root is None or not root.exists():
        return None
    clip_list = read_clips(dataset, root, options, quiet=True)
    if clip_list.features is not None:
        return None
    from raygap.search.placement import nodes

    return fitted(clip_list, cache or default_cache(), any(node.get("GPU") for node in nodes()), anew=anew)


def check_network(path: Path) -> None:
    """Raise UserError unless this is a file, as a best.pt is, or a folder that holds a sweep."""
    if path.is_dir() and not (path / PLAN).exists():
        raise UserError(f"{path}: holds no sweep ({PLAN} is missing); give its folder, or a best.pt")
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")


def sweep_of(network: Path) -> Path | None:
    """The run folder of the sweep that a network lies in, or is; None if it lies in none."""
    folders = (network.resolve(), *network.resolve().parents[:4])
    return next((folder for folder in folders if (folder / PLAN).exists()), None)


def load_classifier(path: Path) -> "Classifier":
    """Of a best.pt; of a sweep's run folder what validation chose: its best trial, or an ensemble of its best trials.

    Raises UserError if a file is missing or damaged.
    """
    from raygap.tracking.report.run import best_checkpoint
    from raygap.training.ensemble import SOUP
    from raygap.training.inference import Classifier

    if not path.is_dir():
        return Classifier.load(path)
    kept = read_ensemble(path)
    if kept.get("answer") == "soup":
        return Classifier.load(path / SOUP)
    if kept.get("answer") == "probabilities":
        members = [Classifier.load(trial_folder(path, int(name)) / "best.pt") for name in kept["weights"]]
        return Classifier.of(members, list(kept["weights"].values()), kept["correction"])
    return Classifier.load(best_checkpoint(path))


def refuse_kept(asked: Mapping[str, Any], what: str) -> None:
    """Raise UserError for the first option that is given, by its name in Python, though `what` is gone on with."""
    for name, value in asked.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: a resumed {what}; leave it out, or start another")


def present(**values: Any) -> dict[str, Any]:
    """Those that are given."""
    return {name: value for name, value in values.items() if value is not None}
