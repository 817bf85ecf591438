"""The benchmark on digits: what it plants, what its ceilings know, and that a rerun repeats nothing."""

import csv
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from digits import BASELINE, FIXED, METHODS, Arm, Bench, draw_point, report
from digits_data import Recipe, write_data

from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping

TINY = Recipe(train=10, val=3, test=3)


def write_recordings(folder: Path, count: int) -> Path:
    """Files named as the Free Spoken Digit Dataset names them: a pitch for each digit, and noise."""
    draw = np.random.default_rng(0)
    for digit in range(10):
        for i in range(count):
            time = np.arange(2400) / 8000
            sound = 0.3 * np.sin(2 * np.pi * (200 + 100 * digit) * time) + 0.01 * draw.standard_normal(2400)
            soundfile.write(folder / f"{digit}_someone_{i}.wav", sound, 8000)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"), 16)


@pytest.fixture(scope="module")
def manifest(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(recordings, tmp_path_factory.mktemp("digits"), TINY)


def read(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def check_manifest(rows: list[dict[str, str]], recipe: Recipe) -> None:
    assert Counter(row["split"] for row in rows) == {s: 10 * getattr(recipe, s) for s in ("train", "val", "test")}
    for digit in range(10):
        of_class = [row for row in rows if row["label"] == f"digit{digit}" and row["split"] == "train"]
        counts = Counter(row["planted"] for row in of_class)
        for name in ("spoiled_picture", "spoiled_sound", "mismatched"):
            assert counts[name] == round(getattr(recipe, name) * recipe.train)
    assert {row["planted"] for row in rows if row["split"] != "train"} == {"clean"}
    sounds, pictures = zip(*(row["source"].split("+") for row in rows), strict=True)
    assert len(set(sounds)) == len(set(pictures)) == len(rows)
    assert all(row["label"] == f"digit{row['source'][0]}" for row in rows)


def test_planted_shares_and_disjoint_splits(manifest: Path) -> None:
    check_manifest(read(manifest), TINY)


def test_the_real_recordings(tmp_path: Path) -> None:
    if not os.environ.get("RAYGAP_FSDD"):
        pytest.skip("set RAYGAP_FSDD to the folder of the Free Spoken Digit Dataset")
    recipe = replace(TINY, train=20)
    check_manifest(read(write_data(Path(os.environ["RAYGAP_FSDD"]), tmp_path, recipe)), recipe)


def test_only_mismatched_clips_show_another_class(manifest: Path) -> None:
    from sklearn.datasets import load_digits

    shown = load_digits().target
    for row in read(manifest):
        same = row["label"] == f"digit{shown[int(row['source'].split('+')[1])]}"
        assert same == (row["planted"] != "mismatched")


def test_the_same_recipe_gives_the_same_files(recordings: Path, manifest: Path, tmp_path: Path) -> None:
    again = write_data(recordings, tmp_path, TINY).parent
    for path in sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file()):
        assert (again / path).read_bytes() == (manifest.parent / path).read_bytes()


def test_what_another_recipe_made_is_not_taken_for_it(recordings: Path, manifest: Path) -> None:
    with pytest.raises(UserError, match="made by another recipe"):
        write_data(recordings, manifest.parent, replace(TINY, picture_noise=1.0))


def test_too_few_recordings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="digit 0: 2 recordings, but the splits want 16"):
        write_data(write_recordings(tmp_path, 2), tmp_path / "out", TINY)
    with pytest.raises(UserError, match="no recordings named"):
        write_data(tmp_path / "out", tmp_path / "out", TINY)


def test_truth_is_the_truth_and_a_rerun_repeats_nothing(manifest: Path, tmp_path: Path) -> None:
    store = prepare(
        read_clips("manifest", manifest.parent), from_mapping(FIXED).prepare, tmp_path / "stores", workers=2
    )
    assert len(Store.open(store).rows("train")) == 100
    arms = [Arm(BASELINE), Arm("gmm_adaptive", "truth"), Arm("gmm_scores", "truth"), Arm("purification", "truth")]

    def run_all(bench: Bench) -> list[dict]:
        return bench.results(bench.job(arm, {}, 1000, tested=True) for arm in arms)

    bench = Bench(tmp_path, manifest, store, jobs=1, quick=True)
    first = run_all(bench)
    assert bench.trained == 4
    assert [result["auroc"] for result in first] == [None, 1.0, 1.0, 1.0]
    assert not [path for path in (tmp_path / "runs").iterdir() if path.suffix != ".json"]

    again = Bench(tmp_path, manifest, store, jobs=1, quick=True)
    assert run_all(again) == first
    assert again.trained == 0

    one_lost = again.job(arms[0], {}, 1000, tested=True).kept
    one_lost.unlink()
    third = Bench(tmp_path, manifest, store, jobs=1, quick=True)
    third.pool = bench.pool  # whose process is up
    anew = {"seconds": 0, "date": ""}
    assert [result | anew for result in run_all(third)] == [result | anew for result in first]
    assert third.trained == 1
    third.pool.shutdown()

    table = report({arm.name: [result] for arm, result in zip(arms, first, strict=True)})
    assert "| gmm_scores, truth |" in table


@pytest.mark.parametrize("method", METHODS)
def test_every_point_is_a_valid_configuration(method: str) -> None:
    assert draw_point(method, 0) == {}
    for number in range(1, 30):
        point = draw_point(method, number)
        assert point == draw_point(method, number)
        from_mapping(FIXED | METHODS[method] | point)
