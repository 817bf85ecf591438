"""The demo data set: real files, deterministic, planted as its docstring says, and never half there."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from raygap.data.demo import clips as demo
from raygap.data.demo import picture as demo_picture
from raygap.data.demo import sound as demo_sound
from raygap.errors import UserError

COUNTS = (10, 1, 2)
"""Clips of each class in train, val and test: 104 clips in all."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def picture_of(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound_of(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.generate_demo(folder, clips_per_class=COUNTS, workers=2)
    return folder


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Picture and sound of every clip that lies there, by the name of its file."""
    return {path.name: (picture_of(path), sound_of(path)) for path in folder.glob("clips/*")}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let ensure_demo write 8 clips; the list receives the folder of each generation."""
    generations: list[Path] = []
    generate = demo.generate_demo

    def generate_tiny(folder: Path) -> None:
        generations.append(folder)
        generate(folder, clips_per_class=(1, 0, 0), workers=1)

    monkeypatch.setattr(demo, "generate_demo", generate_tiny)
    return generations


def test_every_clip_decodes_to_two_seconds_of_picture_and_sound(
    folder: Path, clips: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    rows = rows_of(folder)
    assert list(rows[0]) == ["video", "label", "split", "planted"]
    assert len(rows) == len(demo.LABELS) * sum(COUNTS)
    assert sorted(row["video"] for row in rows) == sorted(
        path.relative_to(folder).as_posix() for path in folder.glob("clips/*")
    )
    for row in rows:
        with av.open(folder / row["video"]) as container:
            assert [stream.codec_context.name for stream in container.streams] == ["h264", "aac"]
            assert container.duration == pytest.approx(2e6, abs=0.05e6)  # in microseconds
        picture, sound = clips[Path(row["video"]).name]
        assert picture.shape == (20, 64, 64, 3)
        assert 32_000 <= sound.size < 32_000 + 2 * 1024  # AAC comes in blocks of 1024 samples
        assert sound[:32_000].reshape(20, -1).std(axis=1).mean() > 1e-5  # nowhere digital silence


def test_the_result_depends_on_the_seed_and_not_on_the_workers(
    folder: Path, clips: dict[str, tuple[np.ndarray, np.ndarray]], tmp_path: Path
) -> None:
    demo.generate_demo(tmp_path / "again", clips_per_class=COUNTS, workers=1)
    assert (tmp_path / "again/manifest.csv").read_bytes() == (folder / "manifest.csv").read_bytes()
    for row in rows_of(folder)[:40]:
        again, (picture, sound) = tmp_path / "again" / row["video"], clips[Path(row["video"]).name]
        np.testing.assert_array_equal(picture, picture_of(again))
        np.testing.assert_array_equal(sound, sound_of(again))
    demo.generate_demo(tmp_path / "other", clips_per_class=(1, 0, 0), seed=1, workers=1)
    assert not np.array_equal(clips["00000.mp4"][0], picture_of(tmp_path / "other/clips/00000.mp4"))


def test_splits_are_stratified_and_clips_all_differ(
    folder: Path, clips: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    counts = Counter((row["label"], row["split"]) for row in rows_of(folder))
    expected = dict(zip(demo.SPLITS, COUNTS, strict=True))
    assert counts == {(label, split): n for label in demo.LABELS for split, n in expected.items()}
    # Disjoint: not only the names, the contents too.
    assert len({picture.tobytes() for picture, _ in clips.values()}) == sum(counts.values())
    assert len({sound.tobytes() for _, sound in clips.values()}) == sum(counts.values())


def test_damage_is_planted_in_training_clips_alone_and_in_every_class_alike(folder: Path) -> None:
    rows = rows_of(folder)
    assert {row["planted"] for row in rows if row["split"] != "train"} == {"clean"}
    counts = Counter((row["label"], row["planted"]) for row in rows if row["split"] == "train")
    shares = {"clean": 6, "spoiled_picture": 2, "spoiled_sound": 1, "mismatched": 1}
    assert counts == {(label, name): n for label in demo.LABELS for name, n in shares.items()}


def test_names_and_order_do_not_tell_label_or_split(folder: Path) -> None:
    rows = rows_of(folder)
    for column in ("label", "split", "planted"):
        values = [row[column] for row in rows]
        runs = 1 + sum(a != b for a, b in itertools.pairwise(values))
        assert runs > 2 * len(set(values))


@pytest.mark.parametrize("planted", ["spoiled_picture", "spoiled_sound", "mismatched"])
def test_damage_hits_the_named_modality_only(planted: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    path = tmp_path / "clips/00007.mp4"
    contents = []
    for truth in ("clean", planted):
        demo._write_clip(tmp_path, demo.Clip(7, "bell", "train", truth), seed=0)
        contents.append((picture_of(path), sound_of(path)))
    (clean_picture, clean_sound), (picture, sound) = contents
    assert np.array_equal(clean_picture, picture) == (planted == "spoiled_sound")
    assert np.array_equal(clean_sound, sound) == (planted != "spoiled_sound")


def test_a_mismatched_picture_is_never_of_a_class_that_looks_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    blank = np.zeros((demo_picture._FRAMES, 64, 64, 3), np.uint8)
    monkeypatch.setattr(demo, "render_picture", lambda label, spoiled, rng: (seen.append(label), blank)[1])
    monkeypatch.setattr(demo, "_write_mp4", lambda path, picture, sound: None)
    for index in range(100):
        demo._write_clip(tmp_path, demo.Clip(index, "gong", "train", "mismatched"), seed=0)
    assert set(seen) == set(demo.LABELS) - {"gong", "drum"}


def test_every_class_renders_at_any_seed() -> None:
    for index in range(80):
        label = demo.LABELS[index % 8]
        sound = demo_sound.render_sound(label, False, np.random.default_rng(index))
        assert sound.shape == (32_000,)
        assert np.isfinite(sound).all()
        assert 0 < np.abs(sound).max() <= 1
        assert demo_picture.render_picture(label, False, np.random.default_rng(index)).std() > 1


def test_workers_that_fail_are_reported_and_leave_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/00000.mp4").mkdir()  # cannot be written as a file
    with pytest.raises(RuntimeError, match="Is a directory"):
        demo.generate_demo(tmp_path, clips_per_class=(1, 0, 0), workers=2)
    assert not (tmp_path / "manifest.csv").exists()


def test_a_folder_with_a_data_set_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(UserError, match="already holds a data set"):
        demo.generate_demo(folder, clips_per_class=(1, 0, 0))


def test_a_second_call_does_not_regenerate(tiny: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path / "cache"))
    first = demo.ensure_demo()
    assert first == tmp_path / "cache/demo-v3"
    assert len(rows_of(first)) == 8
    assert demo.ensure_demo() == first
    assert demo.ensure_demo(tmp_path / "cache") == first
    assert len(tiny) == 1
    assert os.listdir(tmp_path / "cache") == ["demo-v3"]


def test_the_slower_of_two_processes_takes_the_folder_of_the_faster(
    tiny: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = demo.generate_demo
    monkeypatch.setattr(
        demo, "generate_demo", lambda folder: (slow(tmp_path / "demo-v3"), slow(folder))
    )  # the other process finishes while this one is at work
    assert demo.ensure_demo(tmp_path) == tmp_path / "demo-v3"
    assert len(tiny) == 2
    assert os.listdir(tmp_path) == ["demo-v3"]


def test_a_failed_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> None:
        (folder / "clips").mkdir(parents=True)
        raise OSError("disk full")

    monkeypatch.setattr(demo, "generate_demo", fail)
    with pytest.raises(OSError, match="disk full"):
        demo.ensure_demo(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_generation_killed_half_way_leaves_no_folder_that_looks_complete(tiny: list[Path], tmp_path: Path) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from raygap.data.demo.clips import *; ensure_demo(Path(sys.argv[1]))",
            tmp_path,
        ],
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(".demo-v3-*/clips/*.mp4"))) < 3:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)  # the workers too
    child.wait()
    assert not (tmp_path / "demo-v3").exists()
    (leftover,) = tmp_path.glob(".demo-v3-*")
    assert not (leftover / "manifest.csv").exists()

    # The next call generates anew, and clears the leftover away once it is old.
    os.utime(leftover, (0, 0))
    assert len(rows_of(demo.ensure_demo(tmp_path))) == 8
    assert os.listdir(tmp_path) == ["demo-v3"]


def test_a_folder_that_lost_its_manifest_is_an_error_with_a_mend(tmp_path: Path) -> None:
    (tmp_path / "demo-v3").mkdir()
    with pytest.raises(UserError, match=r"no manifest\.csv; delete the folder"):
        demo.ensure_demo(tmp_path)


def test_importing_the_generator_does_not_import_torch() -> None:
    code = "import sys, raygap.data.demo.clips; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
