import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from raygap.config import Prepare
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import STORE_VERSION, Store, StoreWriter, store_key, written_once
from raygap.errors import UserError

SETTINGS = Prepare(frames=2, frame_size=8)
STATISTICS = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "frame_mean": [0.0] * 3, "frame_std": [1.0] * 3}


@pytest.fixture(scope="module")
def clip_list(data_set):
    return read_manifest(data_set)


def write_store(folder, clip_list, quarantined):
    """A store in which row i is filled with the number i."""
    folder.mkdir()
    writer = StoreWriter(folder, len(clip_list.clips), SETTINGS)
    for row in reversed(range(len(clip_list.clips))):
        if row not in quarantined:
            frames = np.full((2, 8, 8, 3), row, np.uint8)
            StoreWriter(folder, len(clip_list.clips), SETTINGS).write(row, frames, np.full((64, 63), row, np.float16))
    writer.finish(clip_list, "key", STATISTICS, quarantined)
    return folder


def test_a_store_is_on_the_disk_before_it_has_its_name(tmp_path, clip_list, monkeypatch):
    synced, rename = [], Path.rename

    def checked(path, target):
        assert {"header.json", path.name} <= set(synced)
        synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name))
    monkeypatch.setattr(Path, "rename", checked)
    write_store(tmp_path / "store", clip_list, {})
    # A preparation unlinks its journal after this.
    assert {"header.json", "clips.parquet", "quarantined.csv", "frames.npy", "spectrograms.npy", "store"} <= set(synced)
    with written_once(tmp_path / "cache" / "store") as folder:
        (folder / "header.json").write_text("{}")
    assert synced == ["cache"]


@pytest.mark.parametrize("bad", [[], [0], [11], [0, 5, 11], [8, 9, 10, 11], [0, 1, 2, 3], [3, 10]])
def test_round_trip_without_the_quarantined_clips(tmp_path, clip_list, bad):
    store = Store.open(write_store(tmp_path / "store", clip_list, dict.fromkeys(bad, "silent")))
    number = {clip.id: i for i, clip in enumerate(clip_list.clips)}
    rows = [number[name] for name in store.clip_ids]
    assert sorted(rows) == [row for row in range(12) if row not in bad]
    assert isinstance(store.frames, np.memmap)
    assert isinstance(store.spectrograms, np.memmap)
    assert store.frames[:, 0, 0, 0, 0].tolist() == rows
    assert store.spectrograms[:, 0, 0].tolist() == rows
    assert store.labels.dtype == np.int64
    assert [store.class_names[label] for label in store.labels] == [clip_list.clips[row].label for row in rows]
    for split in ("train", "val", "test"):
        assert {store.clip_ids[row] for row in store.rows(split)} == {
            clip.id for clip in clip_list.clips if clip.split == split and number[clip.id] not in bad
        }
        assert store.rows(split).dtype == np.int64
    assert store.header["quarantined"] == [{"id": clip_list.clips[row].id, "reason": "silent"} for row in bad]


def test_a_store_is_not_opened_if_it_is_not_right(tmp_path, clip_list):
    good = write_store(tmp_path / "store", clip_list, {})

    def spoil(change):
        folder = tmp_path / "spoiled"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        change(folder)
        with pytest.raises(UserError) as error:
            Store.open(folder)
        return str(error.value)

    def set_version(folder):
        header = json.loads((folder / "header.json").read_text())
        (folder / "header.json").write_text(json.dumps(header | {"version": 99}))

    def cut(folder):
        with (folder / "frames.npy").open("r+b") as file:
            file.truncate(1000)

    mend = f"this raygap reads {STORE_VERSION}; delete the folder and call raygap prepare again"
    assert f"store version 99, {mend}" in spoil(set_version)
    assert "frames.npy has 1000 bytes instead of 4736; delete" in spoil(cut)
    assert "spectrograms.npy is missing; delete" in spoil(lambda folder: (folder / "spectrograms.npy").unlink())
    assert "no store here; make one with raygap prepare" in spoil(lambda folder: (folder / "header.json").unlink())
    assert "header.json: cannot be read" in spoil(lambda folder: (folder / "header.json").write_text("{"))


def test_rows_of_a_wrong_shape_are_refused(tmp_path):
    writer = StoreWriter(tmp_path, 3, SETTINGS)
    with pytest.raises(ValueError, match="row of"):
        writer.write(0, np.zeros((1, 8, 8, 3), np.uint8), np.zeros((64, 63), np.float16))


def test_the_key_follows_settings_clips_and_content_but_neither_place_nor_times(tmp_path, data_set, clip_list):
    key = store_key(clip_list, SETTINGS)
    first, *others = clip_list.clips

    def with_first(**changes):
        return dataclasses.replace(clip_list, clips=(dataclasses.replace(first, **changes), *others))

    keys = {
        key,
        store_key(clip_list, Prepare(frames=2, frame_size=9)),
        store_key(with_first(label="high"), SETTINGS),
        store_key(with_first(split="val"), SETTINGS),
        store_key(with_first(end=0.5), SETTINGS),
        store_key(with_first(id="other"), SETTINGS),
        store_key(with_first(audio=first.video), SETTINGS),
    }
    assert len(keys) == 7
    copy = shutil.copytree(data_set, tmp_path / "elsewhere")
    changed = copy / "low-train-0.mp4"
    os.utime(changed, (0, 0))
    assert store_key(read_manifest(copy), SETTINGS) == key
    times = changed.stat()
    with changed.open("r+b") as file:  # as long as before
        file.seek(times.st_size // 2)
        file.write(b"edited")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store_key(read_manifest(copy), SETTINGS) != key
