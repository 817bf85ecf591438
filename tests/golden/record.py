"""Records the golden curves: `python tests/golden/record.py` writes curves.json beside it.

A golden curve is what a short training of one seed gives after each epoch, every number of it to the last bit. Every
method has one, and so have the presets, on a small store that is made of numbers; and one is of real media, which are
generated, encoded, decoded, packed and trained on. test_golden.py trains anew and compares: whoever changes how the
package is built, and means to change nothing that it computes, proves it so.

Record anew only where what is computed is meant to change, or a method is added, and say so in the commit. On the
machine that the file names, with the libraries that it names, the curves that did not change keep their lines.
"""

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from threadpoolctl import threadpool_limits

sys.path.append(str(Path(__file__).parents[1]))

# All that this folder imports of the package and of the other tests.
from stores import SMALL, write_store

import raygap
from raygap.config import flatten, load_yaml
from raygap.data.demo.clips import generate_demo
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS
from raygap.schema import from_mapping
from raygap.training.run import train

FILE = Path(__file__).with_name("curves.json")
SPACES = Path(__file__).parents[2] / "search_spaces"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "av", "torchaudio")
"""Those that the numbers pass through, beside torch."""
THREADS = 1
PINNED = {"seed": 0, "compute.threads": THREADS}
PRESETS = ("dus_heuristic", "dus_ppo")
OWN: dict[str, dict[str, Any]] = {
    "gradient_blending": {"gradient_blending.super_epoch": 2},
    "relearning": {"relearning.period": 0.33},
    "reconboost": {"reconboost.boost_epochs": 1, "reconboost.rectify_epochs": 1},
}
"""Fields with which six epochs show all of a method."""
DEMO = PINNED | {"epochs": 3, "warmup.epochs": 1, "purify.epochs": 1, "optimizer.batch_size": 16}
"""One epoch of each stage, over what the demo's space holds fixed."""
DEMO_CLIPS = (4, 2, 2)
"""Of each of the 8 classes in train, val and test."""

Curve = dict[str, list[Any]]
"""What each metric was after each epoch; None after an epoch that had no such metric."""


def fixed(space: str) -> dict[str, Any]:
    """The fields that a file in search_spaces/ holds fixed; none if there is no such file."""
    file = SPACES / f"{space}.yaml"
    return flatten(load_yaml(file).get("fixed") or {}) if file.exists() else {}


def fields_of(name: str) -> dict[str, Any]:
    """Of the training of a method or preset: what its space holds fixed, but with every stage that it takes."""
    stages = {"warmup.epochs": SMALL["warmup.epochs"], "purify.epochs": SMALL["purify.epochs"]}
    fields = PINNED | SMALL | {"method": name} | fixed(name) | OWN.get(name, {}) | stages
    for without in ({}, {"purify.epochs": 0}, {"purify.epochs": 0, "warmup.epochs": 0}):
        try:
            METHODS[fields["method"]].check(from_mapping(fields | without))
        except UserError:
            continue
        return fields | without
    raise ValueError(f"{name}: trains with none of the stages")


@contextmanager
def one_order() -> Iterator[None]:
    """Every sum is taken in one order: on the CPU, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with threadpool_limits(THREADS), mock.patch("torch.cuda.is_available", return_value=False):
            yield
    finally:
        torch.set_num_threads(threads)


def train_curve(fields: dict[str, Any], store: Store, folder: Path) -> Curve:
    """Train in a new folder; every metric that is a number, or a list of numbers, and no duration."""
    with one_order():
        rows = list(train(from_mapping(fields), store, folder))
    names = {name for row in rows for name, value in row.items() if isinstance(value, (int, float, list))}
    return {name: [row.get(name) for row in rows] for name in sorted(names) if "seconds" not in name}


def demo_store(fields: dict[str, Any], folder: Path) -> Store:
    """A few clips of the demo data set, as media files, read and prepared in this folder."""
    generate_demo(folder / "demo", clips_per_class=DEMO_CLIPS, workers=1)
    clips = read_clips("manifest", folder / "demo")
    return Store.open(prepare(clips, from_mapping(fields).prepare, folder / "cache", workers=1))


def digests(store: Store) -> dict[str, str]:
    """sha256 of the packed arrays."""
    arrays = {"frames": store.frames, "spectrograms": store.spectrograms}
    return {name: hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for name, array in arrays.items()}


def machine() -> dict[str, Any]:
    """What the last bits depend on: where all of it is the same, a curve must be too."""
    return {
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
        "torch": str(torch.__version__),
        **{library: version(library) for library in LIBRARIES},
    }


def _processor() -> str:
    """Name, family and model: a virtual machine may call processors of several generations by one name."""
    if not Path("/proc/cpuinfo").exists():
        return platform.platform()
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    said = {name.strip(): value.strip() for name, _, value in lines}
    return f"{said.get('model name')}, family {said.get('cpu family')}, model {said.get('model')}"


def _commit() -> str:
    def git(*command: str) -> str:
        folder = Path(raygap.__file__).parent
        return subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True).stdout

    changed = git("status", "--porcelain", "--", ".")
    return git("rev-parse", "HEAD").strip() + (", with changes" if changed else "")


def _written(recorded: dict[str, Any]) -> str:
    """JSON with a line for each metric, so that a comparison of two versions shows which curves changed."""

    def lines(value: Any, indent: str) -> str:
        if not isinstance(value, dict) or not any(isinstance(inner, (dict, list)) for inner in value.values()):
            return json.dumps(value, allow_nan=False)
        inner = (f"{indent} {json.dumps(name)}: {lines(part, indent + ' ')}" for name, part in value.items())
        return "{\n" + ",\n".join(inner) + f"\n{indent}}}"

    return lines(recorded, "") + "\n"


def main() -> None:
    """Train everything and write the file."""
    recorded: dict[str, Any] = {
        "made": {"date": date.today().isoformat(), "commit": _commit()},
        "machine": machine(),
        "curves": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small = write_store(folder / "small")
        for name in (*METHODS, *PRESETS):
            fields = fields_of(name)
            recorded["curves"][name] = {"fields": fields, "metrics": train_curve(fields, small, folder / name)}
        fields = fixed("demo") | DEMO
        store = demo_store(fields, folder)
        metrics = train_curve(fields, store, folder / "trained")
        recorded["demo"] = {"store": digests(store), "fields": fields, "metrics": metrics}
    FILE.write_text(_written(recorded))
    print(f"{FILE}: {len(recorded['curves'])} curves, and that of the demo")


if __name__ == "__main__":
    main()
