"""The published settings in search_spaces/presets/: each is one that its method can work with."""

from pathlib import Path

import pytest

from raygap.config import flatten, load_yaml
from raygap.methods import METHODS
from raygap.schema import from_mapping

FILES = sorted((Path(__file__).parents[2] / "search_spaces" / "presets").glob("*.yaml"))
UNPUBLISHED = {"cggm", "gmm_adaptive", "gmm_scores"}
"""Methods of which no settings for one of the three data sets are published."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_published_settings_are_ones_that_the_method_can_work_with(file: Path) -> None:
    presets = load_yaml(file)
    assert presets.keys() <= {"cremad", "ave", "kinetic_sound"}
    for dataset, preset in presets.items():
        assert preset.keys() == {"source", "set"}
        assert preset["source"]
        fields = flatten(preset["set"])
        METHODS[file.stem].check(from_mapping({"method": file.stem} | fields, f"{file}: {dataset}"))
        assert {"optimizer.name", "optimizer.lr", "optimizer.batch_size", "optimizer.schedule"} <= fields.keys()


def test_each_method_has_some_or_is_named_as_having_none() -> None:
    assert {file.stem for file in FILES} == set(METHODS) - UNPUBLISHED
