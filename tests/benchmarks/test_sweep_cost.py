"""The benchmarks of a sweep's cost: both sides are fed the same clips, and the sums are right."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from media import write_mp4, write_wav

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from baseline_sweep import FileBatches, write_files
from many_trials import Epochs, by_hundreds
from pages import write_page
from sweep_cost import Meter, draw_points, paired, table

from raygap.config import Augment, Prepare
from raygap.data.batches import Batch, batches
from raygap.data.clips import Clip, ClipList
from raygap.data.decoding import decode_clip, write_clip
from raygap.data.store import Store, StoreWriter
from raygap.search.space import load_space

SETTINGS = Prepare(frames=2, frame_size=16, seconds=1.0, n_mels=16)
STATISTICS = {"spectrogram_mean": -1.0, "spectrogram_std": 2.0, "frame_mean": [120.0] * 3, "frame_std": [50.0] * 3}
CROP = Augment(crop=0.5)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, FileBatches]:
    """A store of four clips of noise, and the same clips as files."""
    folder, draw = tmp_path_factory.mktemp("fed"), np.random.default_rng(0)
    clips = tuple(Clip(f"clip{i}", folder / f"{i}.mp4", folder / f"{i}.wav", "ab"[i % 2], "train") for i in range(4))
    (folder / "store").mkdir()
    writer = StoreWriter(folder / "store", len(clips), SETTINGS)
    for row, clip in enumerate(clips):
        greys = np.kron(draw.integers(0, 255, (25, 4, 4)), np.ones((1, 8, 8))).astype(np.uint8)
        write_mp4(clip.video, np.repeat(greys[..., None], 3, axis=3), None)
        write_wav(clip.audio, 0.1 * draw.standard_normal(16_000))
        write_clip(row, decode_clip(clip, SETTINGS), writer)
    clip_list = ClipList("noise", clips, ("a", "b"), folder)
    writer.finish(clip_list, "key", STATISTICS, {})
    store = Store.open(folder / "store")
    write_files(clip_list, store, SETTINGS, folder / "files")
    return store, FileBatches(folder / "files")


def read(source, store: Store, augment: Augment | None, order: np.ndarray) -> list[Batch]:
    settings = {"batch_size": 3, "order": order, "device": torch.device("cpu"), "augment": augment}
    return list(source(store, store.rows("train"), **settings, seed=0, epoch=0))


def test_the_baseline_sees_the_clips_of_the_store(fed: tuple[Store, FileBatches]) -> None:
    store, files = fed
    for order in (np.array([2, 0, 1, 3]), np.array([1, 2])):  # the loader is made once, and its order changes
        ours, theirs = read(batches, store, None, order), read(files, store, None, order)
        assert [batch.index.tolist() for batch in theirs] == [batch.index.tolist() for batch in ours]
        for one, other in zip(ours, theirs, strict=True):
            assert one.labels.equal(other.labels)
            assert (one.clips, one.whole) == (other.clips, other.whole)
            assert one.audio.shape == other.audio.shape
            assert one.visual.shape == other.visual.shape
            # JPEG loses a little, 16 bits next to nothing.
            assert (one.visual - other.visual).abs().mean() < 0.1
            assert (one.audio - other.audio).abs().mean() < 0.01


def test_the_baseline_augments_training_alone(fed: tuple[Store, FileBatches]) -> None:
    store, files = fed
    plain, crop = ([read(files, store, changes, np.arange(3))[0].visual for _ in range(2)] for changes in (None, CROP))
    assert plain[0].equal(plain[1])
    assert not crop[0].equal(crop[1])


def test_turn_arounds_and_hundreds() -> None:
    began = np.arange(0.0, 250.0)
    assert np.allclose(Epochs(began, began + 0.75).turn_arounds(), 0.25)
    assert list(by_hundreds(2 * began + 2, 0.0)) == [(100, 2.0), (200, 2.0)]


def test_a_meter_counts_what_ended_processes_have_used() -> None:
    child = "import time; t = time.process_time()\nwhile time.process_time() - t < 1: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); import time; time.sleep(0.5)"
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        meter = Meter(process.pid)
        process.wait()
    assert meter.seconds() > 0.7


def test_arms_are_compared_trial_by_trial() -> None:
    trials = [{"number": i, "epochs": 12, "trained": 12, "accuracy": 0.5 + 0.1 * i} for i in range(3)]
    fewer = [trial | {"trained": 8} for trial in trials]
    better = [trial | {"accuracy": trial["accuracy"] + 0.01 * (1 + i % 2)} for i, trial in enumerate(trials)]
    arms = {
        "baseline": {"wall": 300.0, "cpu": 500.0, "trials": better},
        "raygap": {"wall": 60.0, "cpu": 100.0, "trials": fewer},
        "no trunk": {"wall": 90.0, "cpu": 150.0, "trials": trials},
    }
    rows = {row.split(" | ")[0].strip("| "): row for row in table(arms)[2:]}
    assert "5.00x | 5.00x | +0.0133 ± " in rows["baseline"]
    assert "| 24 |" in rows["raygap"]
    assert rows["no trunk"].endswith("1.50x | 1.50x | equal in every trial |")
    assert paired(trials, trials) == "equal in every trial"


def test_arms_share_their_configurations() -> None:
    space = load_space("demo", None, None)
    assert draw_points(space, 3) == draw_points(space, 5)[:3]
    assert set(draw_points(space, 1)[0]) == set(space.space)


def test_a_page_of_results_says_what_made_it(tmp_path: Path) -> None:
    write_page(tmp_path / "results" / "page.md", "A title", ["a line"])
    text = (tmp_path / "results" / "page.md").read_text()
    assert text.startswith("# A title\n\nMade by raygap")
    assert f"torch {version('torch')}" in text
    assert text.endswith("\n\na line\n")
