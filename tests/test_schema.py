"""Configurations: what every trial has and what its method adds, across processes and versions."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import yaml

from raygap.errors import UserError
from raygap.schema import from_mapping, to_mapping, trial_schema
from raygap.tracking.best_sources import find_best

OLD_SECTIONS = """
align: {kind: kl, focus: imbalanced, mask: balanced}
loss: {align_weight: 0.5, shift_weight: 0.0, fusion_weight: 1.0, unimodal_weight: 1.0, focus: 3.0, focus_scope: all}
scores: {separator: scores2d, beta: 0.8}
ogm: {alpha: 0.8, epochs: 50}
pmr: {alpha: 1.0}
dus: {kind: none, strength: 1.0, floor: 0.25}
"""
"""A part of what each configuration of version 1 held, whatever its method."""


def in_a_fresh_process(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("library", [pickle, cloudpickle])
def test_a_configuration_goes_through_another_process(library: Any, tmp_path: Path) -> None:
    config = from_mapping({"method": "ogm", "ogm.alpha": 0.3, "epochs": 30})
    file = tmp_path / "config"
    file.write_bytes(library.dumps(config))
    code = f"""import pickle, sys, {library.__name__} as library
config = pickle.load(open(sys.argv[1], 'rb'))
print(config.ogm.alpha)
open(sys.argv[1], 'wb').write(library.dumps(config))"""
    assert in_a_fresh_process(code, str(file)) == "0.3"
    again = pickle.loads(file.read_bytes())
    assert again == config
    assert type(again) is trial_schema("ogm")


@pytest.mark.parametrize("method", ["gmm_scores", "joint", "ogm"])
def test_a_best_yaml_of_version_1_is_read_without_the_sections_of_other_methods(method: str, tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text(f"schema_version: 1\nmethod: {method}\nepochs: 30\noptimizer: {{lr: 0.02}}\n{OLD_SECTIONS}")
    config = from_mapping(yaml.safe_load(file.read_text()), str(file))
    assert (config.schema_version, config.method, config.epochs, config.optimizer.lr) == (2, method, 30, 0.02)
    own = {"gmm_scores": {"align", "loss", "scores"}, "joint": set(), "ogm": {"ogm"}}[method]
    assert {"align", "loss", "scores", "ogm", "pmr", "dus"} & to_mapping(config).keys() == own
    assert [found.config for found in find_best(str(tmp_path))] == [config]


def test_a_field_of_another_methods_section_is_refused_in_one_line() -> None:
    with pytest.raises(UserError) as error:
        from_mapping({"method": "joint", "ogm.alpha": 1}, "--set")
    assert str(error.value) == "--set: joint has no field ogm.alpha; it is one of ogm, ogm_ge"


def test_settings_of_methods_are_read_without_what_trains() -> None:
    code = (
        "import sys, raygap.schema as s; s.field_paths();"
        "print(sorted({'torch', 'ray', 'sklearn', 'pandas'} & sys.modules.keys()))"
    )
    assert in_a_fresh_process(code) == "[]"
