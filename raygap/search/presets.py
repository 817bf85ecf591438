"""Published settings of a method on a data set: search_spaces/presets/<method>.yaml, each with its source.

cremad:
  source: the paper's code, its default arguments
  set:
    optimizer.lr: 0.001
    ogm.alpha: 0.8
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygap.config import flatten, load_yaml
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.search.space import FOLDER, check_method, read_space

FILES = FOLDER / "presets"


@dataclass(frozen=True)
class Preset:
    """Fields by dotted path, `method` among them, and where they are published."""

    source: str
    fields: dict[str, Any]


def read_presets(file: Path) -> dict[str, Preset]:
    """All presets of a method, by data set. Raises UserError naming file, data set and field."""
    content, by_name = load_yaml(file), FOLDER / f"{file.stem}.yaml"
    own = read_space(by_name).fixed if by_name.exists() else {}
    method = own.get("method", file.stem)  # a name for a method with some of its fields fixed
    presets = {}
    for dataset, entry in content.items():
        where = f"{file}: {dataset}"
        if not isinstance(entry, Mapping) or entry.keys() != {"source", "set"}:
            raise UserError(f"{where}: expected source and set")
        if not isinstance(entry["source"], str) or not isinstance(entry["set"], Mapping):
            raise UserError(f"{where}: expected a text as source, and a mapping of fields as set")
        fields = {"method": method} | {p: v for p, v in own.items() if p.startswith("dus.")} | flatten(entry["set"])
        from_mapping(fields, f"{where}: set")
        presets[str(dataset)] = Preset(entry["source"], fields)
    return presets


def preset(method: str, dataset: str) -> Preset | None:
    """That of a method on a data set; None if there is none."""
    file = FILES / f"{method}.yaml"
    return read_presets(file).get(dataset) if file.exists() else None


def find_preset(name: str) -> Preset:
    """That of METHOD:DATASET. Raises UserError, which says what there is, for one that is not there."""
    method, _, dataset = name.rpartition(":")
    if not method:
        raise UserError(f"--preset {name}: expected METHOD:DATASET, for example ogm_ge:cremad")
    check_method(method)
    if found := preset(method, dataset):
        return found
    own = FILES / f"{method}.yaml"
    there = [f"{method}:{name}" for name in read_presets(own)] if own.exists() else []
    others = f"there are {', '.join(there)}" if there else f"nor for {method} on other data sets"
    raise UserError(f"--preset {name}: nothing published is noted for it; {others}")
