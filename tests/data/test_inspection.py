import re

import numpy as np
import pytest
from media import write_data_set

from raygap.config import Prepare
from raygap.data.inspection import tables, write_page
from raygap.data.prepare import prepare
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = write_data_set(tmp_path_factory.mktemp("inspected"), train=4)
    (folder / "low-train-0.mp4").write_bytes(b"")
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
    assert all(float(cell) == pytest.approx(1, abs=0.05) for row in found["Lengths"][1:] for cell in row[1:])
    ((count, reason, names),) = found["Quarantined"][1:]
    assert (count, names) == ("1", "low-train-0.mp4")
    assert reason.startswith("unreadable: ")


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
