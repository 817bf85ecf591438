import re

import numpy as np
import pytest
from media import BLUE, solid, tone, write_data_set, write_mp4, write_wav

from raygap.config import Prepare
from raygap.data.clips import ReaderOptions
from raygap.data.inspection import UNLIKE, feature_tables, oddities, tables, write_page
from raygap.data.prepare import prepare
from raygap.data.readers.features import contents, read_features
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = write_data_set(tmp_path_factory.mktemp("inspected"), train=4)
    (folder / "low-train-0.mp4").write_bytes(b"")
    write_mp4(folder / "high-train-0.mp4", solid(BLUE, seconds=4), tone(1760, seconds=0.8))
    write_mp4(folder / "high-train-1.mp4", solid(BLUE), np.stack((tone(1760), -tone(1760)), axis=1))
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace(",low,", ",<b>low,"))
    settings = Prepare(frames=2, frame_size=16, seconds=1)
    return Store.open(prepare(read_manifest(folder), settings, folder / "cache", max_quarantine=0.1))


def test_tables(store):
    found = tables(store)
    header, low, high, all_clips = found["Clips by class and split"]
    assert header == ["class", "train", "val", "test", "median s", "level"]
    assert low[:5] == ["0 <b>low", "3", "1", "1", "1.0"]
    assert high[:5] == ["1 high", "4", "1", "1", "1.0"]
    assert all_clips == ["all", "7", "2", "2", "1.0", ""]
    assert [row[0] for row in found["Lengths"]] == ["split", "train", "val", "test"]
    assert found["Lengths"][1] == ["train", "1.00", "1.00", "4.00"]
    assert all(float(cell) == pytest.approx(1, abs=0.05) for row in found["Lengths"][2:] for cell in row[1:])
    ((count, reason, names),) = found["Quarantined"][1:]
    assert (count, names) == ("1", "low-train-0.mp4")
    assert reason.startswith("unreadable: ")


def test_what_is_odd_of_a_clip_is_listed(store):
    found = oddities(store)
    assert found.pop(UNLIKE) == [("high-train-0.mp4", "4.0 s of picture, 0.8 s of sound")]
    ((note, clips),) = found.items()
    assert "inverse" in note
    assert clips == [("high-train-1.mp4", note)]
    assert tables(store)["Worth a look"][1:] == [
        ["high-train-0.mp4", "4.0 s of picture, 0.8 s of sound"],
        ["high-train-1.mp4", note],
    ]


def test_lengths_are_those_within_start_and_end(tmp_path):
    # Sound of its own, 2 s of it: windows of picture and sound that lie before its end are of one length.
    write_mp4(tmp_path / "clip.mp4", solid(BLUE, seconds=4), None)
    write_wav(tmp_path / "clip.wav", tone(440, seconds=2))
    windows = ["0,1,a,train", "1,2,a,val", "1.5,3,a,test", "0.5,1.5,b,train", "0.5,2,b,val", "0,2,b,test"]
    rows = [f"clip.mp4,clip.wav,{window},{i}" for i, window in enumerate(windows)]
    (tmp_path / "manifest.csv").write_text("\n".join(["video,audio,start,end,label,split,id", *rows]))
    settings = Prepare(frames=1, frame_size=8, seconds=0.5)
    found = oddities(Store.open(prepare(read_manifest(tmp_path), settings, tmp_path / "cache", workers=1)))
    assert found == {UNLIKE: [("2", "1.5 s of picture, 0.5 s of sound")]}


def test_reasons_are_grouped_by_what_they_have_in_common(store):
    reasons = ["no such file: a.mp4", "silent", "no such file: b.mp4", "unreadable: moov", "unreadable: moov"]
    left_out = [{"id": str(i), "reason": reason} for i, reason in enumerate(reasons)]
    changed = Store(store.path, store.header | {"quarantined": left_out}, store.frames, store.spectrograms, store.clips)
    assert tables(changed)["Quarantined"][1:] == [
        ["2", "no such file", "0, 2"],
        ["2", "unreadable: moov", "3, 4"],
        ["1", "silent", "1"],
    ]


def test_the_level_of_a_dead_microphone_stands_out(store):
    sounds = store.spectrograms.copy()
    sounds[store.labels == 1] = np.log(1e-7)
    silent = Store(store.path, store.header, store.frames, sounds, store.clips)
    levels = [float(row[-1]) for row in tables(silent)["Clips by class and split"][1:3]]
    assert levels[1] < levels[0] - 3


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(store, tmp_path):
    text = write_page(store, tmp_path / "inspect.html").read_text()
    assert "0 &lt;b&gt;low" in text
    assert "<b>low" not in text
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) == 2 * 6  # frames and sound of three clips a class
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in text
    with pytest.raises(
        UserError, match=r"inspect.html: cannot be written .*; --inspect writes into the store's folder"
    ):
        write_page(store, tmp_path / "nowhere" / "inspect.html")


def test_features_are_counted_and_what_is_odd_of_them_named(tmp_path):
    rng, n = np.random.default_rng(0), 24
    audio, visual = rng.normal(size=(n, 5, 6)).astype(np.float32), rng.normal(size=(n, 8)).astype(np.float16)
    visual[3], visual[5] = 0, visual[4]
    audio[..., 2] = 7
    audio[7, 0, 0] = np.nan
    lengths, split = np.arange(n) % 5 + 1, np.repeat(["train", "val", "test"], 8)
    file = tmp_path / "clips.npz"
    np.savez(file, audio=audio, visual=visual, label=np.arange(n) % 3, split=split, audio_length=lengths)
    assert contents(file)[1:3] == [["audio", "24", "5 x 6", "float32"], ["visual", "24", "8", "float16"]]
    clips = read_features(file, ReaderOptions())
    store = Store.open(prepare(clips, Prepare(input="features"), tmp_path / "cache"))
    found = feature_tables(store)
    assert found["Clips by class and split"][-1] == ["all", "7", "8", "8"]
    assert [[row[0], row[1], row[2], row[-1]] for row in found["Numbers"][1:]] == [
        ["audio", "6", "1 to 5 (median 3)", "1"],
        ["visual", "8", "1", "0"],
    ]
    assert found["Worth a look"][1:] == [
        ["1", "visual: all numbers are 0", "03"],
        ["1", "visual: another clip has the same", "04"],
    ]
    assert found["Quarantined"][1:] == [["1", "numbers that are not finite: audio", "07"]]
