"""What a trained model says of clips: logits by modality, labels, and where known features and head weights.

Models trained elsewhere come as a file:

npz      audio, visual (N, C); labels (N,), class indices 0 to C - 1. Optional: fused (N, C); ids (N,) and splits (N,),
         text; class_names (C,), text; features_audio, features_visual (N, F), F may differ; weight_audio, weight_visual
         (C, F), the parts of the linear head that reads those features. Written by np.savez, without Python objects.
parquet, csv   a row a clip: label; audio_0 to audio_{C-1}, visual_0 to visual_{C-1}. Optional: fused_0 to fused_{C-1},
         id, split. The columns may end in class names instead (audio_dog); label is then a class name, or an index if
         no name is a number. Names are text, whatever they look like: 10, 01, true, NA, 1e3.

splits holds train, val or test. Every read-out is either logits or probabilities: probabilities, if all its values lie
in [0, 1] and every row sums to 1 within 0.001; logits, if a value lies outside [0, 1]; anything else is refused until
the user says which.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from raygap.data.clips import SPLITS
from raygap.errors import UserError, first_line

Values = Literal["logits", "probabilities"]
READOUTS = ("fused", "audio", "visual")
MODALITIES = ("audio", "visual")
SUM_TOLERANCE = 1e-3
SMALLEST_PROBABILITY = 1e-12
"""Probabilities become logits by the logarithm; below this one they are taken for it."""
TABLES = (".parquet", ".csv")


@dataclass(frozen=True, eq=False)
class Predictions:
    """N clips and C classes. Arrays by modality may lack one that is not known."""

    ids: np.ndarray
    """(N,), text."""
    labels: np.ndarray
    """(N,) int64."""
    class_names: tuple[str, ...]
    logits: dict[str, np.ndarray]
    """fused, audio and visual, each (N, C) float64."""
    splits: np.ndarray | None = None
    """(N,), text."""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    """(N, F) by modality."""
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """(C, F) by modality: the linear head over the joined features, cut in two."""
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    """(N, C) by modality: what it adds to the fused logits, which are the sum up to a constant a class."""
    alone: dict[str, np.ndarray] = field(default_factory=dict)
    """Fused logits (N, C) where the features of the other modality, or with `none` of both, are replaced by their
    mean over the training clips."""
    notes: tuple[str, ...] = ()
    """How the numbers are to be read, a sentence each."""

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: np.ndarray) -> "Predictions":
        """Those of some rows, (n,) indices or (N,) of bool."""
        parts: dict[str, Any] = {
            name: {key: values[rows] for key, values in getattr(self, name).items()}
            for name in ("logits", "features", "parts", "alone")
        }
        splits = None if self.splits is None else self.splits[rows]
        return replace(self, ids=self.ids[rows], labels=self.labels[rows], splits=splits, **parts)


def read_predictions(path: Path, values: Values | None = None) -> Predictions:
    """Read a file as described above; `values` says what its read-outs are, where that cannot be seen.

    Raises UserError, one line with file, field and mend, for whatever is missing, of the wrong shape or type, not
    finite, out of range, or not to be told apart.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".npz":
        arrays = _read_npz(path)
    elif path.suffix in TABLES:
        arrays = _read_table(path)
    else:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}; give a .npz, .parquet or .csv file")
    return _checked(path, arrays, values)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        # Never with pickle: a file from elsewhere must not run code.
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                try:
                    arrays[name] = file[name]
                except ValueError:
                    raise UserError(
                        f"{path}: {name} holds Python objects; save plain arrays, text as np.array(..., dtype=str)"
                    ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: not an npz file; write it with np.savez") from None
    return arrays


def _read_table(path: Path) -> dict[str, np.ndarray]:
    """The columns put together to the arrays of an npz file."""
    try:
        table = _read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as {path.suffix[1:]} ({first_line(error)})") from None
    columns = table.column_names
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise UserError(f"{path}: column {repeated[0]} comes twice; keep one")
    if "label" not in columns:
        raise UserError(f"{path}: no column label; add the true class of each clip")
    endings = {
        name: [column.removeprefix(f"{name}_") for column in columns if column.startswith(f"{name}_")]
        for name in READOUTS
    }
    classes = endings["audio"]
    named = {ending for some in endings.values() for ending in some}
    indices = [str(i) for i in range(len(named))]
    numbered = named == set(indices)  # else they are names, though they may be numbers
    if numbered:
        classes = indices
    arrays: dict[str, np.ndarray] = {}
    for name in READOUTS:
        if name == "fused" and not endings[name]:
            continue
        missing = next((ending for ending in classes or ["0"] if ending not in endings[name]), None)
        if missing is not None:
            raise UserError(f"{path}: no column {name}_{missing}; every class needs one for audio and for visual")
        more = next((ending for ending in endings[name] if ending not in classes), None)
        if more is not None:
            raise UserError(f"{path}: column {name}_{more} has no audio_{more} beside it; name the same classes")
        arrays[name] = np.stack([_numbers(path, table, f"{name}_{ending}") for ending in classes], axis=1)
    if not numbered:
        arrays["class_names"] = np.array(classes)
    labels = _texts(path, table, "label")
    numbers = [_number(label) for label in labels]
    may_be_indices = numbered or not (set(labels) <= named or any(isinstance(_loose(name), float) for name in named))
    if may_be_indices and None not in numbers:
        arrays["labels"] = np.array(numbers)
    else:
        arrays["labels"] = np.array(labels) if numbered else _indices(path, labels, classes)
    for name, plural in (("id", "ids"), ("split", "splits")):
        if name in columns:
            arrays[plural] = np.array(_texts(path, table, name))
    return arrays


def _read_csv(path: Path) -> pyarrow.Table:
    """All columns as text: what a value looks like says nothing of what it is."""
    with pyarrow.csv.open_csv(path) as reader:
        columns = dict.fromkeys(reader.schema.names, pyarrow.string())
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=columns))


def _column(path: Path, table: pyarrow.Table, name: str) -> list[Any]:
    values = table[name].to_pylist()
    empty = next((row for row, value in enumerate(values) if value is None or value == ""), None)
    if empty is not None:
        raise UserError(f"{path}: {name} is empty in row {empty}; fill it or leave the row out")
    if not isinstance(values[0] if values else "", int | float | str):
        raise UserError(f"{path}: {name} holds neither numbers nor text")
    return values


def _texts(path: Path, table: pyarrow.Table, name: str) -> list[str]:
    """Of numbers, too: 3.0 is 3, since a column with a gap holds no whole ones."""
    values = _column(path, table, name)
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return [str(value) for value in whole]


def _numbers(path: Path, table: pyarrow.Table, name: str) -> np.ndarray:
    values = _column(path, table, name)
    try:
        return np.array(values, np.float64)
    except ValueError:
        text = next(value for value in values if _number(value) is None)
        raise UserError(f"{path}: {name} holds text, such as {text!r}; give numbers") from None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _loose(text: str) -> float | str:
    """What is left of a name once a program has taken it for a number, or for true and false."""
    number = _number(text)
    return text.strip().casefold() if number is None or np.isnan(number) else number


def _indices(path: Path, labels: list[str], classes: list[str]) -> np.ndarray:
    index, loose = {name: i for i, name in enumerate(classes)}, [_loose(name) for name in classes]
    for row, label in enumerate(labels):
        if label not in index and loose.count(_loose(label)) == 1:
            index[label] = loose.index(_loose(label))
        if label not in index:
            raise UserError(f"{path}: label {label!r} in row {row} is no class; the columns name {', '.join(classes)}")
    return np.array([index[label] for label in labels])


def _checked(path: Path, arrays: Mapping[str, np.ndarray], values: Values | None) -> Predictions:
    for name in ("audio", "visual", "labels"):
        if name not in arrays:
            raise UserError(f"{path}: no array {name} among {', '.join(arrays) or 'none'}; add it")
    known = {"ids", "splits", "class_names", "labels", *READOUTS}
    known |= {f"{kind}_{name}" for kind in ("features", "weight") for name in MODALITIES}
    unknown = next((name for name in arrays if name not in known), None)
    if unknown:
        raise UserError(f"{path}: unknown array {unknown}; the names are {', '.join(sorted(known))}")
    shape = arrays["audio"].shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
        raise UserError(f"{path}: audio has shape {shape}; expected (clips, classes) with two classes or more")
    clips, classes = shape
    shapes = dict.fromkeys(READOUTS, shape) | dict.fromkeys(("labels", "ids", "splits"), (clips,))
    shapes["class_names"] = (classes,)
    for name, expected in shapes.items():
        if name in arrays and arrays[name].shape != expected:
            raise UserError(f"{path}: {name} has shape {arrays[name].shape}; expected {expected}, as audio has {shape}")
    notes, logits = [], {}
    for name in READOUTS:
        if name in arrays:
            logits[name], note = _as_logits(path, name, _finite(path, name, arrays[name]), values)
            notes.append(note)
    if "fused" not in logits:
        logits["fused"] = logits["audio"] + logits["visual"]
        notes.append("fused: not in the file; the sum of the audio and visual logits stands in for it (late fusion).")
    features, weights = _features_and_weights(path, arrays, clips, classes)
    known_parts = [name for name in MODALITIES if name in features and name in weights]
    ids = arrays["ids"].astype(str) if "ids" in arrays else np.arange(clips).astype(str)
    _check_ids(path, ids)
    names = arrays["class_names"] if "class_names" in arrays else np.arange(classes)
    return Predictions(
        ids=ids,
        labels=_labels(path, arrays["labels"], classes),
        class_names=tuple(names.astype(str).tolist()),
        logits=logits,
        splits=_splits(path, arrays["splits"].astype(str)) if "splits" in arrays else None,
        features=features,
        weights=weights,
        parts={name: features[name] @ weights[name].T for name in known_parts} if len(known_parts) == 2 else {},
        notes=tuple(notes),
    )


def _finite(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: {name} is of type {array.dtype}; give numbers")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = ", ".join(str(i) for i in bad[0].tolist())
        raise UserError(
            f"{path}: {name} has {len(bad)} values that are NaN or infinite, the first at [{place}]; "
            "leave those clips out"
        )
    return array


def _as_logits(path: Path, name: str, array: np.ndarray, values: Values | None) -> tuple[np.ndarray, str]:
    """Logits, and the sentence that says what was found."""
    off = np.abs(array.sum(axis=1) - 1)
    inside = bool((array >= 0).all() and (array <= 1).all())
    if values is None:
        if inside and off.max() > SUM_TOLERANCE:
            row = int(off.argmax())
            raise UserError(
                f"{path}: {name} lies in [0, 1] but row {row} sums to {array[row].sum():.4g}, not to 1; divide "
                "probabilities by their sum, or say --values logits"
            )
        values = "probabilities" if inside else "logits"
        found = "all in [0, 1], rows sum to 1" if inside else "values outside [0, 1]"
    else:
        found = "as --values says"
        if values == "probabilities" and not (inside and off.max() <= SUM_TOLERANCE):
            row = int(off.argmax())
            problem = f"row {row} sums to {array[row].sum():.4g}" if inside else "values lie outside [0, 1]"
            raise UserError(f"{path}: {name} holds no probabilities ({problem}); divide them by their sum")
    if values == "probabilities":
        array = np.log(np.maximum(array, SMALLEST_PROBABILITY))
    return array, f"{name}: {values} ({found})."


def _labels(path: Path, labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.dtype.kind not in "iuf" or (labels != np.floor(labels)).any():
        raise UserError(f"{path}: labels must be whole numbers, the class indices 0 to {classes - 1}")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{path}: label {labels[row]:g} in row {row} is out of range; {classes} classes have 0 to {classes - 1}"
        )
    return labels.astype(np.int64)


def _splits(path: Path, splits: np.ndarray) -> np.ndarray:
    wrong = np.flatnonzero(~np.isin(splits, SPLITS))
    if len(wrong):
        raise UserError(f"{path}: split {str(splits[wrong[0]])!r} in row {wrong[0]}; use {', '.join(SPLITS)}")
    return splits


def _check_ids(path: Path, ids: np.ndarray) -> None:
    names, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(
            f"{path}: id {str(names[counts.argmax()])!r} comes {counts.max()} times; give each clip its own"
        )


def _features_and_weights(
    path: Path, arrays: Mapping[str, np.ndarray], clips: int, classes: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    found: dict[str, dict[str, Any]] = {"features": {}, "weight": {}}
    for kind, rows in (("features", clips), ("weight", classes)):
        for modality in MODALITIES:
            name = f"{kind}_{modality}"
            if name not in arrays:
                continue
            array = arrays[name]
            if array.ndim != 2 or len(array) != rows:
                raise UserError(f"{path}: {name} has shape {array.shape}; expected ({rows}, features)")
            found[kind][modality] = _finite(path, name, array)
    for modality in MODALITIES:
        features, weight = found["features"].get(modality), found["weight"].get(modality)
        if features is not None and weight is not None and features.shape[1] != weight.shape[1]:
            raise UserError(
                f"{path}: features_{modality} has {features.shape[1]} features and weight_{modality} "
                f"{weight.shape[1]}; save the weight as (classes, features)"
            )
    return found["features"], found["weight"]
