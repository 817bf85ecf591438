import csv
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from media import BLUE, RED, CrashingPath, solid, tone, write_data_set, write_mp4, write_wav

from raygap.config import Prepare
from raygap.data import prepare as prepare_module
from raygap.data.manifest import read_manifest
from raygap.data.prepare import default_cache, prepare
from raygap.data.store import Store
from raygap.errors import UserError

SETTINGS = Prepare(frames=2, frame_size=8, seconds=1)

# One process that prepares the data set argv[1] under argv[2] and says what it does, a word a line.
SCRIPT = """
import sys, time
from pathlib import Path
from raygap.config import Prepare
from raygap.data.manifest import read_manifest
from raygap.data.prepare import prepare

def progress(done, total):
    print("decoded", flush=True)
    time.sleep(float(sys.argv[3]))

if __name__ == "__main__":
    settings = Prepare(frames=2, frame_size=8, seconds=1)
    print(prepare(read_manifest(Path(sys.argv[1])), settings, Path(sys.argv[2]), progress=progress, workers=2))
"""


def start_preparation(script: Path, data_set: Path, cache: Path, pause: float) -> subprocess.Popen:
    script.write_text(SCRIPT)
    command = [sys.executable, script, data_set, cache, pause]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def clip_list(data_set):
    return read_manifest(data_set)


@pytest.fixture(scope="module")
def store(clip_list, tmp_path_factory):
    return Store.open(prepare(clip_list, SETTINGS, tmp_path_factory.mktemp("cache")))


def test_the_store_holds_what_was_played(store, clip_list):
    assert store.frames.shape == (12, 2, 8, 8, 3)
    assert store.spectrograms.shape == (12, 64, 32)
    assert store.clip_ids == [clip.id for clip in clip_list.clips]
    assert store.class_names == ("high", "low")
    for clip, label, frames, spectrogram in zip(
        clip_list.clips, store.labels, store.frames, store.spectrograms, strict=True
    ):
        assert store.class_names[label] == clip.label
        assert np.abs(frames.mean(axis=(0, 1, 2)) - (RED if clip.label == "low" else BLUE)).max() < 30
        assert (spectrogram[:, 5:25].mean(axis=1).argmax() > 20) == (clip.label == "high")
    assert [len(store.rows(split)) for split in ("train", "val", "test")] == [8, 2, 2]
    assert store.header["quarantined"] == []


def test_statistics_are_those_of_the_training_clips(store):
    statistics, rows = store.header["statistics"], store.rows("train")
    spectrograms = store.spectrograms[rows].astype(np.float64)
    frames = store.frames[rows].astype(np.float64)
    assert statistics["spectrogram_mean"] == pytest.approx(spectrograms.mean())
    assert statistics["spectrogram_std"] == pytest.approx(spectrograms.std())
    assert statistics["frame_mean"] == pytest.approx(frames.mean(axis=(0, 1, 2, 3)))
    assert statistics["frame_std"] == pytest.approx(frames.std(axis=(0, 1, 2, 3)))


def test_the_number_of_workers_does_not_change_the_store(store, clip_list, tmp_path):
    path = prepare(clip_list, SETTINGS, tmp_path, workers=1)
    for name in ("frames.npy", "spectrograms.npy", "header.json", "clips.parquet"):
        assert (path / name).read_bytes() == (store.path / name).read_bytes()


def test_a_store_is_reused_and_other_settings_or_clips_make_another(store, clip_list):
    calls = []
    cache = store.path.parent
    assert prepare(clip_list, SETTINGS, cache, progress=lambda *counts: calls.append(counts)) == store.path
    assert calls == []
    other = prepare(clip_list, Prepare(frames=1, frame_size=8, seconds=1), cache, progress=lambda *c: calls.append(c))
    assert other != store.path
    assert calls[-1] == (12, 12)
    fewer = dataclasses.replace(clip_list, clips=clip_list.clips[:3] + clip_list.clips[4:])
    assert len(Store.open(prepare(fewer, SETTINGS, cache)).labels) == 11


def test_start_end_and_a_sound_file_of_its_own(tmp_path):
    write_data_set(tmp_path, train=1)
    write_mp4(tmp_path / "long.mp4", solid(RED, BLUE, seconds=2), None)
    write_wav(tmp_path / "long.wav", tone(440, 3000, seconds=2, rate=44_100), rate=44_100)
    text = (tmp_path / "manifest.csv").read_text().replace("split", "split,audio,start,end")
    (tmp_path / "manifest.csv").write_text(text + "long.mp4,low,train,long.wav,0,1\nlong.mp4,high,train,long.wav,1,2\n")
    store = Store.open(prepare(read_manifest(tmp_path), SETTINGS, tmp_path / "cache"))
    first, second = store.frames[-2:].mean(axis=(1, 2, 3))
    assert np.abs(first - RED).max() < 30
    assert np.abs(second - BLUE).max() < 30
    low, high = store.spectrograms[-2:, :, 5:25].mean(axis=2).argmax(axis=1)
    assert low < 20 < 40 < high
    assert store.clips["start"].to_pylist()[-2:] == [0.0, 1.0]
    assert store.clips["audio"].to_pylist() == [None] * 6 + ["long.wav"] * 2


@pytest.fixture
def spoiled(tmp_path):
    """24 clips, five of them bad, each in its own way."""
    folder = write_data_set(tmp_path, train=10)
    (folder / "low-train-0.mp4").write_bytes(b"")
    write_mp4(folder / "low-train-3.mp4", solid(RED), 0 * tone(440))
    write_mp4(folder / "high-train-1.mp4", solid(RED), None)
    write_mp4(folder / "high-train-9.mp4", None, tone(440))
    clips = read_manifest(folder)
    crash = next(i for i, clip in enumerate(clips.clips) if clip.id == "high-val-0.mp4")
    changed = list(clips.clips)
    changed[crash] = dataclasses.replace(changed[crash], split="train", video=CrashingPath(changed[crash].video))
    changed[0], changed[-1] = changed[-1], changed[0]
    return dataclasses.replace(clips, clips=tuple(changed))


def test_bad_clips_are_quarantined_with_their_reasons(spoiled, tmp_path):
    store = Store.open(prepare(spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.25))
    reasons = {clip["id"]: clip["reason"] for clip in store.header["quarantined"]}
    assert reasons == {
        "low-train-0.mp4": reasons["low-train-0.mp4"],
        "low-train-3.mp4": "silent",
        "high-train-1.mp4": "no audio stream",
        "high-train-9.mp4": "no video stream",
        "high-val-0.mp4": "the decoder crashed (SIGSEGV)",
    }
    assert reasons["low-train-0.mp4"].startswith("unreadable: ")
    with (store.path / "quarantined.csv").open() as file:
        assert list(csv.DictReader(file)) == store.header["quarantined"]
    # The rows that are left are those of the clips that they are said to be.
    good = {clip.id: clip for clip in spoiled.clips if clip.id not in reasons}
    assert sorted(store.clip_ids) == sorted(good)
    assert store.frames.shape[0] == store.spectrograms.shape[0] == len(good) == 19
    assert store.header["counts"] == {"train": 16, "val": 1, "test": 2}
    for name, frames, label in zip(store.clip_ids, store.frames, store.labels, strict=True):
        assert store.class_names[label] == good[name].label
        assert np.abs(frames.mean(axis=(0, 1, 2)) - (RED if name.startswith("low") else BLUE)).max() < 30
    # A store that was made with a laxer threshold is held to the stricter one too.
    with pytest.raises(UserError, match="at least 5 of 24 clips cannot be used"):
        prepare(spoiled, SETTINGS, tmp_path / "cache")


def test_too_many_bad_clips_stop_preparation(spoiled, tmp_path):
    with pytest.raises(UserError, match=r"at least 3 of 24 clips cannot be used \(.*\.mp4: .*\), more than .* 0.1;"):
        prepare(spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.1)
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["low-val-0.mp4", "high-val-0.mp4"], r"no usable clip is left in split val \(.*\.mp4: unreadable.*\); mend"),
        (["low-train-0.mp4"], r"no usable clip of class 'low' is left in train \(low-train-0.mp4: unreadable"),
    ],
)
def test_quarantine_must_not_empty_a_split_or_a_class(tmp_path, bad, message):
    write_data_set(tmp_path, train=1)
    for name in bad:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        prepare(read_manifest(tmp_path), SETTINGS, tmp_path / "cache", max_quarantine=1)


def test_a_full_disk_is_told_before_the_work(clip_list, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the store needs 0.0 GB and 0.0 GB are free; make room"):
        prepare(clip_list, SETTINGS, tmp_path)


def test_a_cache_that_cannot_be_made(clip_list, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*; choose another folder with --cache or RAYGAP_CACHE"):
        prepare(clip_list, SETTINGS, tmp_path / "file" / "cache")


def test_a_preparation_that_was_killed_leaves_nothing_in_the_way(data_set, store, clip_list, tmp_path):
    cache = tmp_path / "cache"
    process = start_preparation(tmp_path / "script.py", data_set, cache, pause=30)
    assert process.stdout.readline() == "decoded\n"
    process.kill()
    process.wait()
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".partial"]
    path = prepare(clip_list, SETTINGS, cache)
    assert sorted(cache.iterdir()) == sorted([path, cache / f".{path.name}.lock"])
    assert (path / "frames.npy").read_bytes() == (store.path / "frames.npy").read_bytes()
    process.stderr.close()
    process.stdout.close()


def test_two_preparations_at_once_make_one_store(data_set, store, tmp_path):
    cache = tmp_path / "cache"
    first = start_preparation(tmp_path / "script.py", data_set, cache, pause=0.1)
    second = start_preparation(tmp_path / "script.py", data_set, cache, pause=0.1)
    outputs = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    assert first.returncode == second.returncode == 0
    assert sorted(words.count("decoded") for words in outputs) == [0, 12]
    assert outputs[0][-1] == outputs[1][-1]
    path = Path(outputs[0][-1])
    assert (path / "spectrograms.npy").read_bytes() == (store.path / "spectrograms.npy").read_bytes()


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("RAYGAP_CACHE")
    assert default_cache() == Path.home() / ".cache" / "raygap"
