"""Features in place of media: a file, or a folder, with an array of the sound and one of the picture of each clip.

.npz, .h5      arrays audio, visual, label, split and, if there are any, id, class_names, audio_length, visual_length
.parquet       columns of these names; audio and visual hold lists of numbers, or lists of these: steps
a folder       clips.csv with the columns id, label, split, and audio/<id>.npy and visual/<id>.npy
AVE's files    a folder with audio_feature.h5, visual_feature.h5, labels.h5 and *_order.h5, as its authors publish them

Of a clip a modality is a vector, or a sequence of steps (steps, numbers), of which clips may have different numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygap.data.clips import SPLITS, Clip, ClipList, LeftOut, ReaderOptions, fault_of
from raygap.data.readers.lists import read_table, split_named
from raygap.errors import UserError, first_line
from raygap.extras import need

if TYPE_CHECKING:  # the names of the readers are told without numpy
    import numpy as np

    from raygap.data.features import Features

MODALITIES = ("audio", "visual")
NEEDED = (*MODALITIES, "label", "split")
AVE_FILES = ("audio_feature.h5", "visual_feature.h5", "labels.h5", *(f"{split}_order.h5" for split in SPLITS))

Columns = dict[str, Any]
"""By name what a file holds of all clips: arrays, or lists of arrays where clips differ in length."""


def read_features(root: Path, options: ReaderOptions) -> ClipList:
    """Read the features under `root`; see above.

    Clips with numbers that are not finite, or without a step, are left out. Class indices follow the sorted labels:
    numbers, if all are, by their values; class_names, where there are any, name labels that are indices.

    Raises UserError for what is none of this, for arrays of unequal length, for a clip without a label, and for a class
    or a split without clips.
    """
    columns = _load(root)
    for name in NEEDED:
        if name not in columns:
            there = ", ".join(sorted(columns)) or "nothing"
            raise UserError(f"{root}: no {name} among {there}; features need {', '.join(NEEDED)}")
    given = _Modalities.of(columns, str(root))
    labels, ids = _labels(columns, str(root)), _ids(columns, given.count, str(root))
    texts = _texts(columns, "split", str(root))
    splits = [split_named(text) for text in texts]
    if None in splits:
        text = texts[splits.index(None)]
        raise UserError(f"{root}: split {text!r}: unknown; name the splits train, val and test")
    left_out = tuple(LeftOut(name, fault) for name, fault in zip(ids, given.faults, strict=True) if fault)
    kept = [row for row, fault in enumerate(given.faults) if not fault]
    clips = tuple(Clip(ids[row], root, None, labels[row], splits[row]) for row in kept)
    classes = sorted({*labels})
    if all(label.isdecimal() for label in classes):
        classes.sort(key=int)
    clip_list = ClipList(
        "features", clips, tuple(classes), root if root.is_dir() else root.parent, (), left_out, given.features(kept)
    )
    if fault := fault_of(clip_list):
        raise UserError(f"{root}: {fault}")
    return clip_list


def read_unlabelled(path: Path) -> tuple[list[str], "dict[str, list[np.ndarray | None]]", list[str]]:
    """Ids of clips, their features by modality (None: there are none), and what is wrong with a clip's ("": nothing).

    Of sequences each clip has its own steps (L, D + 1). Raises UserError as read_features does.
    """
    columns = _load(path)
    if not set(MODALITIES) & set(columns):
        raise UserError(f"{path}: neither audio nor visual among {', '.join(sorted(columns)) or 'nothing'}")
    given = _Modalities.of(columns, str(path))
    found: dict[str, list[np.ndarray | None]] = {
        name: [None] * given.count if array is None else list(array) for name, array in given.arrays.items()
    }
    return _ids(columns, given.count, str(path)), found, given.faults


def contents(root: Path) -> list[list[str]]:
    """What a file or folder of features holds, a row an array, the header first: name, entries, of what, type.

    Raises UserError as read_features does.
    """
    rows = [["array", "entries", "each of", "type"]]
    for name, values in _load(root).items():
        if isinstance(values, list):  # a clip at a time
            shapes = sorted({getattr(one, "shape", ()) for one in values})
            kinds = sorted({str(one.dtype) if hasattr(one, "dtype") else type(one).__name__ for one in values})
            each = " to ".join(dict.fromkeys(" x ".join(map(str, shape)) or "1" for shape in (shapes[0], shapes[-1])))
        else:
            each, kinds = " x ".join(map(str, values.shape[1:])) or "1", [str(values.dtype)]
        rows.append([name, str(len(values)), each, ", ".join(kinds)])
    return rows


@dataclass
class _Modalities:
    """Checked arrays of all clips, of those modalities that there are."""

    arrays: dict[str, "np.ndarray | None"]
    count: int
    faults: list[str]

    @classmethod
    def of(cls, columns: Columns, source: str) -> "_Modalities":
        import numpy as np

        for name in (*NEEDED, "id"):
            if not getattr(columns.get(name, ()), "shape", (1,)):
                raise UserError(f"{source}: {name}: a single value; expected an array with one entry a clip")
        counts = {name: len(columns[name]) for name in (*NEEDED, "id") if name in columns}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise UserError(f"{source}: arrays of unequal length: {told}; each needs one entry a clip")
        count = next(iter(counts.values()))
        if not count:
            raise UserError(f"{source}: no clips")
        faults = [""] * count
        arrays: dict[str, Any] = dict.fromkeys(MODALITIES)
        for name in MODALITIES:
            if name not in columns:
                continue
            array = _array(columns[name], columns.get(f"{name}_length"), f"{source}: {name}")
            arrays[name] = array
            odd = ~np.isfinite(array).reshape(count, -1).all(1)
            empty = array[..., -1].sum(1) == 0 if array.ndim == 3 else np.zeros(count, bool)
            for row in np.flatnonzero(odd | empty).tolist():
                faults[row] = faults[row] or f"{'numbers that are not finite' if odd[row] else 'no step'}: {name}"
        return cls(arrays, count, faults)

    def features(self, kept: list[int]) -> "Features":
        from raygap.data.features import Features

        whole = len(kept) == self.count
        return Features(*(array if whole else array[kept] for array in self.arrays.values()))


def _array(values: Any, lengths: Any, what: str) -> "np.ndarray":
    """float32 (N, D), or (N, L, D + 1) (data/features.py). Raises UserError for what is neither."""
    import numpy as np

    from raygap.data.features import padded

    if isinstance(values, list):  # a clip at a time
        values = [_numbers(np.asarray(one), what) for one in values]
        if len({(one.ndim, one.shape[-1:]) for one in values}) > 1 or values[0].ndim not in (1, 2):
            told = ", ".join(map(str, list(dict.fromkeys(one.shape for one in values))[:3]))
            raise UserError(f"{what}: clips of {told}; give vectors of one length, or steps (steps, numbers) of one")
        return np.stack(values) if values[0].ndim == 1 else padded(values)
    values = _numbers(np.asarray(values), what)
    if values.ndim not in (2, 3) or 0 in values.shape[1:]:
        raise UserError(f"{what}: shape {values.shape}; expected (clips, numbers) or (clips, steps, numbers)")
    if values.ndim == 2:
        return values
    lengths = np.full(len(values), values.shape[1]) if lengths is None else np.asarray(lengths)
    if (
        lengths.shape != (len(values),)
        or lengths.dtype.kind not in "iu"
        or not ((lengths >= 0) & (lengths <= values.shape[1])).all()
    ):
        raise UserError(f"{what}_length: expected a whole number a clip, of {values.shape[1]} steps at most")
    return padded([steps[:length] for steps, length in zip(values, lengths.tolist(), strict=True)])


def _numbers(array: "np.ndarray", what: str) -> "np.ndarray":
    import numpy as np

    if array.dtype.kind not in "fiu":
        raise UserError(f"{what}: {array.dtype}, which are no numbers; save them as float32")
    return array.astype(np.float32, copy=False)


def _texts(columns: Columns, name: str, source: str) -> list[str]:
    """Of texts, bytes or whole numbers. Raises UserError where one is missing, or is more than that."""
    found, values = [], columns[name]
    for place, value in enumerate(values.tolist() if hasattr(values, "tolist") else values):
        if value is None or value != value:
            raise UserError(f"{source}: {name} {place}: missing; each clip needs one")
        if isinstance(value, list | dict):
            raise UserError(f"{source}: {name} {place}: {value!s:.40}; give one name or whole number a clip")
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        found.append(str(int(text)) if isinstance(text, float) and text.is_integer() else str(text))
    return found


def _labels(columns: Columns, source: str) -> list[str]:
    labels = _texts(columns, "label", source)
    if "class_names" not in columns:
        return labels
    names = _texts(columns, "class_names", source)
    wrong = [label for label in labels if not label.isdecimal() or int(label) >= len(names)]
    if wrong:
        raise UserError(f"{source}: label {wrong[0]}: not an index into class_names, of which there are {len(names)}")
    used = {int(label) for label in labels}
    unused = [name for index, name in enumerate(names) if index not in used]
    if unused:
        raise UserError(f"{source}: no clip of class {unused[0]!r}; leave it out of class_names")
    return [names[int(label)] for label in labels]


def _ids(columns: Columns, count: int, source: str) -> list[str]:
    return (
        _texts(columns, "id", source) if "id" in columns else [f"{row:0{len(str(count - 1))}d}" for row in range(count)]
    )


def _load(path: Path) -> Columns:
    """Raises UserError for what cannot be read."""
    readers: Mapping[str, Callable[[Path], Columns]] = {
        "/": _load_ave if (path / AVE_FILES[0]).exists() else _load_folder,
        ".npz": _load_npz,
        ".parquet": _load_parquet,
        ".h5": _load_h5,
        ".hdf5": _load_h5,
    }
    kind = "/" if path.is_dir() else path.suffix
    if kind not in readers:
        raise UserError(f"{path}: features lie in a file .npz, .parquet or .h5, or in a folder with clips.csv")
    try:
        return readers[kind](path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None


def _load_npz(path: Path) -> Columns:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _load_h5(path: Path) -> Columns:
    need("h5", f"{path}:")
    import h5py

    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in file}


def _load_parquet(path: Path) -> Columns:
    import numpy as np
    import pyarrow.compute
    import pyarrow.parquet

    columns: Columns = {}
    table = pyarrow.parquet.read_table(path)
    for name in table.column_names:
        values = table[name].combine_chunks()
        if name not in MODALITIES:
            columns[name] = values.to_pylist()
            continue
        lengths, flat = pyarrow.compute.list_value_length(values).unique(), values.flatten()
        if len(lengths) == 1 and not hasattr(flat, "flatten"):
            columns[name] = flat.to_numpy(zero_copy_only=False).reshape(len(values), -1)
        else:  # steps
            columns[name] = [np.array(one) for one in values.to_pylist()]
    return columns


def _load_folder(path: Path) -> Columns:
    import numpy as np

    table = read_table(path / "clips.csv", needs="the header id,label,split")
    rows = [table.named(fields) for _, fields in table.rows]
    columns: Columns = {name: [row[name] for row in rows] for name in table.columns if name in ("id", "label", "split")}
    if "id" not in columns:
        raise UserError(f"{path / 'clips.csv'}: no column id; it names the files audio/<id>.npy and visual/<id>.npy")
    for name in MODALITIES:
        files = [path / name / f"{clip}.npy" for clip in columns["id"]]
        if not (path / name).is_dir():
            continue
        try:
            columns[name] = [np.load(file, allow_pickle=False) for file in files]
        except (OSError, ValueError) as error:
            raise UserError(f"{path / name}: {first_line(error)}; every id of clips.csv needs a file there") from None
    return columns


def _load_ave(path: Path) -> Columns:
    """Ten steps a clip, each with a label of its own: the clip is its event, what is not background.

    VGGish's 128 numbers a second, and VGG-19's 512 of 7 x 7 places a second, of which the mean is taken.
    """
    import numpy as np

    from raygap.data.readers.ave import CLASSES

    need("h5", f"{path}:")
    import h5py

    for name in AVE_FILES:
        if not (path / name).is_file():
            raise UserError(f"{path / name}: no such file; AVE's features are {', '.join(AVE_FILES)}")

    def whole(name: str, key: str = "avadataset") -> "np.ndarray":
        with h5py.File(path / name) as file:
            return file[key][()]

    steps, sounds = whole("labels.h5"), whole("audio_feature.h5")
    orders = {split: whole(f"{split}_order.h5", "order") for split in SPLITS}
    rows = np.concatenate(list(orders.values()))
    with h5py.File(path / "visual_feature.h5") as file:
        shown = file["avadataset"]
        if not len(shown) == len(sounds) == len(steps) or rows.min() < 0 or rows.max() >= len(steps):
            told = f"{len(sounds)} sounds, {len(shown)} pictures, {len(steps)} labels, rows up to {rows.max()}"
            raise UserError(f"{path}: files that do not belong together ({told}); get them again")
        # A clip at a time: all places together take 4 GB.
        pictures = [clip.mean((1, 2)) if clip.ndim == 4 else clip for clip in shown]
    there = np.asarray(steps[..., : len(CLASSES)].any(-1))
    event = np.asarray(there.any(1))
    rows = rows[event[rows]]
    splits = [split for split, order in orders.items() for _ in order[event[order]]]
    return {
        "id": [f"{row:04d}" for row in rows],
        "label": [CLASSES[steps[row, :, : len(CLASSES)].sum(0).argmax()] for row in rows],
        "split": splits,
        "audio": [sounds[row][there[row]] for row in rows],
        "visual": [pictures[row][there[row]] for row in rows],
    }
