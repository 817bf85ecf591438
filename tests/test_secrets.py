"""Files that a user may have been sent run no code; keys are written nowhere."""

import ast
import hashlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stores import SMALL, write_store

from raygap.config import load_yaml
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.training import checkpoint
from raygap.training.run import load_network, train
from raygap.training.trunk import SharedWarmups

REPOSITORY = Path(__file__).parents[1]
UNSAFE_MODULES = {"pickle", "cloudpickle", "ray.cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "Tuner.restore"}


def unsafe(source: str) -> Iterator[str]:
    """What in this source would run code out of a file."""
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} != {"cpu_count"}:
            names.append(node.module or "")
        yield from (f"import {name}" for name in names if name in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            name in ("eval", "exec")
            or any(name == call or name.endswith(f".{call}") for call in UNSAFE_CALLS)
            or (name == "torch.load" and given.get("weights_only") != "True")
            or (name == "yaml.load" and "SafeLoader" not in ast.unparse(node))
            or given.get("allow_pickle", "False") != "False"
        ):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import tune\nfrom ray.cloudpickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, yaml.Loader)",
        "np.load(path, allow_pickle=True)",
        "tune.Tuner.restore(path, trainable)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(unsafe(source))


def test_no_source_loads_what_could_run_code() -> None:
    files = [file for folder in ("raygap", "launch", "benchmarks") for file in (REPOSITORY / folder).rglob("*.py")]
    assert len(files) > 50
    found = {str(file.relative_to(REPOSITORY)): [*unsafe(file.read_text())] for file in files}
    # Of a .pkl an unpickler reads that finds arrays alone: tests/data/test_extracted.py.
    assert found.pop("raygap/data/media/spectrogram.py") == ["import pickle"]
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize("folder", ["launch", "docs", "raygap", ".ci"])
def test_no_file_holds_a_key(folder: str) -> None:
    assigned = re.compile(r"(API_KEY|AUTH_TOKEN|PASSWORD|SECRET)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{16,}")
    assert assigned.search('WANDB_API_KEY: "0123456789abcdef0123456789abcdef01234567"')
    for file in (REPOSITORY / folder).rglob("*"):
        if file.suffix in (".py", ".md", ".yaml", ".sh", "") and file.is_file():
            assert not assigned.search(file.read_text()), file


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the attacks below would leave."""
    return tmp_path / "code-was-run"


def test_the_attack_works_on_who_is_careless(mark: Path) -> None:
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["torch", "torch, old format", "pickle"])
def test_a_checkpoint_from_elsewhere_runs_no_code(kind: str, mark: Path, tmp_path: Path, small_store: Store) -> None:
    evil: dict[str, Any] = {"config": {}, "network": Evil(mark), "identity": {}}
    for name in ("best.pt", "checkpoint.pt"):
        if kind == "pickle":
            (tmp_path / name).write_bytes(pickle.dumps(evil))
        else:
            torch.save(evil, tmp_path / name, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "best.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_network(tmp_path / "best.pt", 3)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        next(train(from_mapping(SMALL), small_store, tmp_path))
    assert not mark.exists()


def test_a_shared_warm_up_from_elsewhere_runs_no_code(mark: Path, tmp_path: Path, small_store: Store) -> None:
    trunk = SharedWarmups(tmp_path / "trunk", 1e9)
    next(train(from_mapping(SMALL), small_store, tmp_path / "first", trunk=trunk))
    [saved] = trunk.folder.glob("*/0001.pt")
    torch.save(Evil(mark), tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes()
    saved.write_bytes(hashlib.sha256(content).digest() + content)  # whole, as far as the digest can tell
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        next(train(from_mapping(SMALL), small_store, tmp_path / "second", trunk=trunk))
    assert not mark.exists()


def test_a_configuration_from_elsewhere_runs_no_code(mark: Path, tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(f"epochs: !!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(UserError, match="not valid YAML"):
        load_yaml(tmp_path / "best.yaml")
    assert not mark.exists()


def test_a_store_from_elsewhere_runs_no_code(mark: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    frames = store.path / "frames.npy"
    size = frames.stat().st_size
    np.save(frames, np.array([Evil(mark)], object), allow_pickle=True)
    frames.write_bytes(frames.read_bytes().ljust(size, b"\0"))
    with pytest.raises((UserError, ValueError)):
        Store.open(store.path)
    assert not mark.exists()
