import csv
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from children import start
from media import (
    BLUE,
    RED,
    CrashingPath,
    HangingPath,
    RayCrashingPath,
    solid,
    tone,
    write_data_set,
    write_mp4,
    write_wav,
)

from raygap.config import Prepare
from raygap.data import decoding
from raygap.data import prepare as prepare_module
from raygap.data.decoding import decode_here
from raygap.data.prepare import JOURNAL, prepare
from raygap.data.prepared import default_cache
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.errors import UserError

SETTINGS = Prepare(frames=2, frame_size=8, seconds=1)


def prepare_and_tell(told, data_set, cache, pause):
    """In a process of its own: tells of each clip that is decoded, then where the store is."""

    def progress(done, total):
        told.send("decoded")
        time.sleep(pause)

    told.send(prepare(read_manifest(data_set), SETTINGS, cache, progress=progress, workers=2))
    told.send(None)


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
    assert store.clips["seconds"].to_pylist() == pytest.approx([1.0] * 8, abs=0.1)


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
    with pytest.raises(
        UserError, match=r"^5 of 24 clips cannot be used, more than the allowed share 0.05; mend"
    ) as told:
        prepare(spoiled, SETTINGS, tmp_path / "cache")
    assert sorted(str(told.value).splitlines()[1:]) == [
        "  1 no audio stream: high-train-1.mp4",
        "  1 no video stream: high-train-9.mp4",
        "  1 silent: low-train-3.mp4",
        "  1 the decoder crashed (SIGSEGV): high-val-0.mp4",
        f"  1 {reasons['low-train-0.mp4']}: low-train-0.mp4",
    ]


def test_a_file_at_which_the_decoder_hangs_is_quarantined(clip_list, store, tmp_path, monkeypatch):
    # `store` has started the server that forks the workers: that counts as time at a clip, too.
    monkeypatch.setattr(decoding, "HANGS_AFTER", 4.0)
    clips = list(clip_list.clips)
    clips[1] = dataclasses.replace(clips[1], video=HangingPath(clips[1].video))
    changed = dataclasses.replace(clip_list, clips=tuple(clips))
    header = Store.open(prepare(changed, SETTINGS, tmp_path, max_quarantine=0.1, workers=2)).header
    assert header["quarantined"] == [{"id": clips[1].id, "reason": "the decoder hung"}]


def test_faulty_lines_are_quarantined_too(data_set, tmp_path):
    folder = shutil.copytree(data_set, tmp_path / "data")
    with (folder / "manifest.csv").open("a") as file:
        file.write("nowhere.mp4,low,train\n../../etc/passwd,low,train\n")
    clips = read_manifest(folder)
    store = Store.open(prepare(clips, SETTINGS, tmp_path / "cache", max_quarantine=0.15))
    assert len(store.labels) == 12
    assert [clip["id"] for clip in store.header["quarantined"]] == ["manifest.csv, line 14", "manifest.csv, line 15"]
    assert store.header["quarantined"] == [dataclasses.asdict(line) for line in clips.left_out]
    # Their lines would be told wrongly of another list.
    assert prepare(read_manifest(data_set), SETTINGS, tmp_path / "cache") != store.path
    for cache in ("cache", "other"):
        with pytest.raises(UserError, match=r"^2 of 14 clips .*\n  1 no such file .*: manifest.csv, line 14"):
            prepare(clips, SETTINGS, tmp_path / cache, max_quarantine=0.1)


def test_pointers_of_git_lfs_are_told_before_the_work(clip_list, data_set, tmp_path):
    folder = shutil.copytree(data_set, tmp_path / "data")
    for name in ("high-train-2.mp4", "low-test-0.mp4"):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    calls = []
    pointer = r"\n  2 a Git LFS pointer, .*run `git lfs pull` .*: low-test-0.mp4, high-train-2.mp4"
    with pytest.raises(UserError, match=pointer):
        prepare(read_manifest(folder), SETTINGS, tmp_path / "cache", progress=lambda *counts: calls.append(counts))
    assert calls == []
    header = Store.open(prepare(read_manifest(folder), SETTINGS, tmp_path / "cache", max_quarantine=0.2)).header
    assert [clip["id"] for clip in header["quarantined"]] == ["low-test-0.mp4", "high-train-2.mp4"]


def test_media_edited_at_the_same_size_make_another_store_and_moved_ones_none(data_set, tmp_path):
    folder = shutil.copytree(data_set, tmp_path / "data")
    cache = tmp_path / "cache"
    path = prepare(read_manifest(folder), SETTINGS, cache)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "data", copy_function=shutil.copyfile)
    calls = []
    assert prepare(read_manifest(moved), SETTINGS, cache, progress=lambda *c: calls.append(c)) == path
    assert calls == []
    content = bytearray((moved / "low-train-0.mp4").read_bytes())
    content[-1] ^= 1
    (moved / "low-train-0.mp4").write_bytes(content)
    assert prepare(read_manifest(moved), SETTINGS, cache) != path


def test_refresh_makes_a_store_anew(clip_list, tmp_path):
    path = prepare(clip_list, SETTINGS, tmp_path)
    good = (path / "frames.npy").read_bytes()
    (path / "frames.npy").write_bytes(good[:128] + bytes(len(good) - 128))
    opened = Store.open(path)
    calls = []
    assert prepare(clip_list, SETTINGS, tmp_path, refresh=True, progress=lambda *counts: calls.append(counts)) == path
    assert calls[-1] == (12, 12)
    assert (path / "frames.npy").read_bytes() == good
    assert not opened.frames.any()  # who reads the old one goes on with it
    assert not any(other.suffix in (".partial", ".earlier") for other in tmp_path.iterdir())


def test_of_very_many_bad_clips_not_all_are_looked_for(spoiled, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "GIVES_UP_AFTER", 1)
    with pytest.raises(UserError, match=r"^at least 4 of 24 clips cannot be used"):
        prepare(spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.1)


def test_too_many_bad_clips_stop_preparation_until_more_are_allowed(spoiled, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^5 of 24 clips cannot be used, more than the allowed share 0.1;"):
        prepare(spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.1)
    # With the larger share that the message asks for, what was decoded is not decoded again.
    (partial,) = (tmp_path / "cache").glob(".*.partial")
    finished = [json.loads(line)[0] for line in (partial / JOURNAL).read_text().splitlines()]
    assert len(finished) == 19
    tried = []

    def decode(clips, rows, *others):
        tried.extend(rows)
        return decode_here(clips, rows, *others)

    monkeypatch.setattr(prepare_module, "decode_here", decode)
    calls = []
    path = prepare(
        spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.25, progress=lambda *counts: calls.append(counts)
    )
    assert calls[0] == (len(finished), 24)
    assert sorted(tried + finished) == list(range(24))
    assert same_files(path, prepare(spoiled, SETTINGS, tmp_path / "other", max_quarantine=0.25))


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
    assert [path.suffix for path in tmp_path.glob(".*")] == [".lock"]


def test_a_full_disk_keeps_what_a_killed_preparation_has_finished(killed, store, clip_list, monkeypatch):
    (partial,) = killed.glob(".*.partial")
    finished = (partial / JOURNAL).read_text()
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(killed)._replace(free=0)
        patch.setattr(prepare_module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match="make room"):
            prepare(clip_list, SETTINGS, killed)
    assert (partial / JOURNAL).read_text() == finished
    assert same_files(prepare(clip_list, SETTINGS, killed), store.path)


def test_a_cache_that_cannot_be_made(clip_list, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*; choose another folder with --cache or RAYGAP_CACHE"):
        prepare(clip_list, SETTINGS, tmp_path / "file" / "cache")


@pytest.fixture(scope="module")
def killed_once(data_set, tmp_path_factory):
    """The cache of a preparation that was killed after its fifth clip; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("killed")
    process, told = start(prepare_and_tell, data_set, folder / "cache", 0.2)
    assert [told.recv() for _ in range(5)] == ["decoded"] * 5
    process.kill()
    process.join()
    return folder / "cache"


@pytest.fixture
def killed(killed_once, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(killed_once, tmp_path / "cache"))


def same_files(path, other):
    names = ("frames.npy", "spectrograms.npy", "header.json", "clips.parquet")
    return all((path / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_a_killed_preparation_is_gone_on_with(killed, store, clip_list):
    assert [path.suffix for path in sorted(killed.glob("*manifest-*"))] == [".lock", ".partial"]
    calls = []
    path = prepare(clip_list, SETTINGS, killed, progress=lambda *counts: calls.append(counts))
    assert calls in ([(done, 12) for done in range(first, 13)] for first in (5, 6))
    assert same_files(path, store.path)
    assert sorted(killed.glob("*manifest-*")) == sorted([path, killed / f".{path.name}.lock"])
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in store.path.iterdir())


def test_torn_rows_are_decoded_again(killed, store, clip_list):
    (partial,) = killed.glob(".*.partial")
    lines = (partial / JOURNAL).read_text().splitlines()
    rows = [json.loads(line)[0] for line in lines]
    with (partial / "frames.npy").open("r+b") as file:  # a row that never reached the disk
        file.seek(128 + rows[0] * 2 * 8 * 8 * 3)
        file.write(bytes(100))
    with (partial / JOURNAL).open("a") as file:  # a note that was being written
        file.write(lines[1][:20])
    calls = []
    path = prepare(clip_list, SETTINGS, killed, progress=lambda *counts: calls.append(counts))
    assert calls[0] == (len(lines) - 1, 12)
    assert same_files(path, store.path)


def test_ctrl_c_keeps_what_is_finished(store, clip_list, tmp_path):
    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(clip_list, SETTINGS, tmp_path, progress=interrupt)
    calls = []
    assert same_files(prepare(clip_list, SETTINGS, tmp_path, progress=lambda *c: calls.append(c)), store.path)
    assert calls[0] == (4, 12)


def test_on_a_ray_cluster(ray_cluster, store, clip_list, spoiled, tmp_path):
    assert same_files(prepare(clip_list, SETTINGS, tmp_path / "cache", on_ray=True), store.path)
    changed = [
        dataclasses.replace(clip, video=RayCrashingPath(clip.video)) if isinstance(clip.video, CrashingPath) else clip
        for clip in spoiled.clips
    ]
    spoiled = dataclasses.replace(spoiled, clips=tuple(changed))
    mixed = Store.open(prepare(spoiled, SETTINGS, tmp_path / "cache", max_quarantine=0.25, on_ray=True))
    reasons = {clip["id"]: clip["reason"] for clip in mixed.header["quarantined"]}
    assert reasons["high-val-0.mp4"] == "the decoder crashed"
    assert len(reasons) == 5


def test_scaling_by_published_constants(store, clip_list, tmp_path):
    def statistics(**changes):
        return Store.open(prepare(clip_list, SETTINGS.model_copy(update=changes), tmp_path)).header["statistics"]

    own = store.header["statistics"]
    imagenet = statistics(frame_scaling="imagenet", sound_scaling="clip")
    assert imagenet["frame_mean"] == [pytest.approx(255 * mean) for mean in (0.485, 0.456, 0.406)]
    assert imagenet["frame_std"] == [pytest.approx(255 * deviation) for deviation in (0.229, 0.224, 0.225)]
    assert (imagenet["spectrogram_mean"], imagenet["spectrogram_std"]) == (0, 1)
    audioset = statistics(sound_scaling="audioset")
    assert audioset == own | {"spectrogram_mean": -4.503877, "spectrogram_std": pytest.approx(10.282552)}


def test_two_preparations_at_once_make_one_store(data_set, store, tmp_path):
    preparations = [start(prepare_and_tell, data_set, tmp_path / "cache", 0.1) for _ in range(2)]
    said = [list(iter(told.recv, None)) for _, told in preparations]
    assert sorted(words.count("decoded") for words in said) == [0, 12]
    [path] = {words[-1] for words in said}
    assert (path / "spectrograms.npy").read_bytes() == (store.path / "spectrograms.npy").read_bytes()


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("RAYGAP_CACHE")
    assert default_cache() == Path.home() / ".cache" / "raygap"
