"""Checks that every method, encoder and reader of raygap passes, for those of your own: see docs/extending.md.

Each raises AssertionError, or UserError, with what is wrong; none needs media, Ray or a GPU, but check_reader your own.
"""

import ast
import inspect
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from raygap.config import Prepare, Section
from raygap.data.clips import SPLITS, Clip, ClipList, ReaderOptions
from raygap.data.decoding import decode_clip
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.readers import read_clips
from raygap.data.store import Store, StoreWriter
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.schema import field_paths, from_mapping, shapes_warmup
from raygap.training.check import check_trial
from raygap.training.checkpoint import dumps, loads
from raygap.training.trainer import Metrics, Trainer
from raygap.training.trunk import warmup_key

SETTINGS = Prepare(frame_size=8, seconds=0.5, n_mels=8, n_fft=512, hop_length=1000)
SMALL = {
    "prepare.frame_size": 8,
    "model.width": 4,
    "epochs": 6,
    "warmup.epochs": 2,
    "purify.epochs": 1,
    "optimizer.batch_size": 16,
    "mixture.n_init": 1,
}
"""Fields of a configuration that trains in about a second on `write_store`."""
BF16_TOLERANCE = 0.2
"""Of the loss: bf16 has three significant digits, and an epoch adds up their errors."""


def write_store(
    folder: Path,
    *,
    clips: int = 72,
    classes: int = 3,
    seed: int = 0,
    test_seed: int = 0,
    settings: Prepare = SETTINGS,
) -> Store:
    """A store made without media, of clips that can be learnt: sound tells the class clearly, the picture less so.

    Two thirds train, the rest val and test. `test_seed` changes the content of the test clips alone.
    """
    names = tuple(f"class{i}" for i in range(classes))
    train, val = 2 * clips // 3, clips // 6
    counts = zip(SPLITS, (train, val, clips - train - val), strict=True)
    splits = [split for split, count in counts for _ in range(count)]
    listed = [Clip(f"clip{i}", Path(f"{i}.mp4"), None, names[i % classes], split) for i, split in enumerate(splits)]
    clip_list = ClipList("small", tuple(listed), names, Path())
    folder.mkdir(parents=True)
    writer = StoreWriter(folder, clips, settings)
    patterns = np.random.default_rng(0)
    sounds = patterns.normal(0, 1, (classes, *spectrogram_shape(settings)))
    pictures = patterns.integers(40, 215, (classes, *frames_shape(settings)))
    for row, clip in enumerate(listed):
        noise = np.random.default_rng([seed, row, test_seed if clip.split == "test" else 0])
        sound = sounds[row % classes] + noise.normal(0, 1.0, sounds.shape[1:])
        picture = pictures[row % classes] + noise.normal(0, 90, pictures.shape[1:])
        writer.write(row, picture.clip(0, 255).astype(np.uint8), sound.astype(np.float16))
    statistics = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "frame_mean": [128.0] * 3, "frame_std": [64.0] * 3}
    writer.finish(clip_list, f"key-{seed}", statistics, {})
    return Store.open(folder)


def check_method(
    method: type[Method] | str, fields: Mapping[str, Any] | None = None, store: Store | None = None
) -> None:
    """What every method must do, on a small store: its settings are documented and bounded, it trains, a resumed
    training and one on a shared warm-up equal an uninterrupted one to the last bit, and bf16 changes little.

    `fields` of a configuration that show all of the method in few epochs; `store` saves the time of making one.
    """
    name = _name_of(method)
    _check_settings(name)
    with _store(store) as store:
        given = SMALL | {"epochs": 4, "warmup.epochs": 1} | dict(fields or {}) | {"method": name}
        rows = _check_training(given, store)
        _check_fork(given, store, rows)
        _check_bf16(given, store)


def check_encoder(make: Callable[..., torch.nn.Module] | str, fields: Mapping[str, Any] | None = None) -> None:
    """What every encoder must do: one vector a clip for sound and pictures, weights that follow from the seed, and a
    training that can be resumed to the last bit, whatever it draws (dropout).

    `fields` of the configuration, as prepare.* where it asks for pictures of some size (8 x 8 without any).
    """
    given = SMALL | {"epochs": 4, "warmup.epochs": 1, "method": "joint"} | dict(fields or {})
    given["model.encoder"] = _name_of(make)
    config = from_mapping(given)
    check_trial(config)
    with _store(None, config.prepare) as store:
        _check_training(given, store)
        _check_bf16(given, store)


def check_reader(
    read: Callable[[Path, ReaderOptions], ClipList] | str, root: Path, options: ReaderOptions = ReaderOptions()
) -> ClipList:
    """What every reader must do for the data under `root`: give a whole list of clips, the same each time, of which
    those that come first in each split can be decoded. Returns the list.
    """
    name, root = _name_of(read), Path(root)
    clip_list = read_clips(name, root, options)
    assert clip_list == read_clips(name, root, options), f"{name}: another list at the second reading"
    for split in SPLITS:
        clip = next(clip for clip in clip_list.clips if clip.split == split)
        decoded = decode_clip(clip, SETTINGS)
        assert not isinstance(decoded, str), f"{name}: clip {clip.id} of {split} cannot be decoded: {decoded}"
    return clip_list


def _name_of(code: Any) -> str:
    """Under which a configuration finds it: trials import it by this name."""
    if isinstance(code, str):
        return code
    assert "<locals>" not in code.__qualname__, (
        f"{code.__qualname__}: define it at the top of a module, by its own name"
    )
    if inspect.isclass(code) and code.__module__.startswith("raygap.methods."):
        return code.__module__.rpartition(".")[2]
    return f"{code.__module__}:{code.__qualname__}"


@contextmanager
def _store(given: Store | None, settings: Prepare = SETTINGS) -> Iterator[Store]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_store(Path(folder) / "store", settings=settings)


def _check_settings(method: str) -> None:
    for section, kind in find_method(method).sections.items():
        for name in undocumented(kind):
            raise AssertionError(f"{section}.{name}: say in a docstring below it what it is")
        for path, info in field_paths(method).items():
            if not path.startswith(f"{section}."):
                continue
            assert not info.is_required(), f"{path}: needs a default"
            if info.annotation in (int, float):
                bounds = {type(bound).__name__.lower()[0] for bound in info.metadata}
                assert {"g", "l"} <= bounds, f"{path}: needs bounds, as in Field(1.0, ge=0, le=100)"


def undocumented(section: type[Section]) -> list[str]:
    """Fields of a section that have no docstring below them; sections in it have their own."""
    said: set[str] = set()
    for kind in section.__mro__[: section.__mro__.index(Section)]:
        [found] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(found, ast.ClassDef)
        for field, below in pairwise(found.body):
            text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and text:
                said.add(ast.unparse(field.target))
    return [
        name for name, info in section.model_fields.items() if name not in said and not _is_section(info.annotation)
    ]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _check_training(fields: Mapping[str, Any], store: Store) -> list[Metrics]:
    """Returns the metrics of an uninterrupted training."""
    config = from_mapping(fields)
    whole = Trainer(config, store)
    rows = [whole.train_epoch() for _ in range(config.epochs)]
    stopped, resumed = [], Trainer(config, store)
    while not resumed.finished:
        stopped.append(resumed.train_epoch())
        if resumed.epoch in (2, 3):
            state = loads(dumps(resumed.state_dict()))
            resumed = Trainer(config, store)
            resumed.load_state_dict(state)
    for row, other in zip(rows, stopped, strict=True):
        _assert_same(row, other, f"epoch {row['epoch']} of a resumed training: state_dict lacks something, or a draw "
                     "does not follow from raygap.rng.generator")  # fmt: skip
    one, other = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one), "a resumed training ends with other weights"
    return rows


def _check_fork(fields: Mapping[str, Any], store: Store, rows: list[Metrics]) -> None:
    """`rows` are those of a cold training."""
    config = from_mapping(fields)
    if not config.warmup.epochs:
        return
    kind = find_method(config.method)
    other = dict(fields) | {"epochs": config.epochs + 1, "warmup.epochs": config.warmup.epochs + 1}
    for path, info in field_paths(config.method).items():
        if path.partition(".")[0] in kind.sections and not shapes_warmup(path, config.method):
            try:
                check_trial(from_mapping(other | {path: _another(info)}))
            except UserError:  # it suits no other field
                continue
            other[path] = _another(info)
    if warmup_key(from_mapping(other), "", kind) != warmup_key(config, "", kind):
        return  # of another length it is another warm-up
    warming = Trainer(from_mapping(other), store)
    for _ in range(config.warmup.epochs):
        warming.train_epoch()
    forked = Trainer(config, store)
    forked.load_state_dict(loads(dumps(warming.state_dict())))
    for row in rows[config.warmup.epochs :]:
        _assert_same(row, forked.train_epoch(), f"epoch {row['epoch']} on a shared warm-up: a setting marked LATER, or "
                     "the method's adaptive part, changes the warm-up")  # fmt: skip


def _check_bf16(fields: Mapping[str, Any], store: Store) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = Trainer(from_mapping(dict(fields) | {"compute.precision": precision}), store)
        losses[precision] = np.array([trainer.train_epoch()["train_loss"] for _ in range(2)])
    apart = np.abs(losses["bf16"] - losses["fp32"]) > BF16_TOLERANCE * np.abs(losses["fp32"])
    assert not apart.any(), f"bf16: losses {losses['bf16']}, but {losses['fp32']} with fp32; compute losses in float32"


def _assert_same(row: Metrics, other: Metrics, where: str) -> None:
    differ = {name: (row.get(name), other.get(name)) for name in row | other if row.get(name) != other.get(name)}
    assert not differ, f"{where}: {', '.join(f'{name} {one} and {two}' for name, (one, two) in differ.items())[:200]}"


def _another(info: Any) -> Any:
    """A value of a field that is not its default."""
    if choices := get_args(info.annotation):
        return next(choice for choice in choices if choice != info.default)
    if isinstance(info.default, bool):
        return not info.default
    if isinstance(info.default, int):
        return info.default + 1
    return info.default * 0.5 or 0.5
