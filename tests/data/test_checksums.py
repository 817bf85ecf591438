import os
from pathlib import Path

import pytest

from raygap.data import checksums, notes
from raygap.data.checksums import checksum, media_checksums, note_twins
from raygap.data.clips import Clip, ClipList


@pytest.fixture
def clip_list(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("same" if name in "ab" else "other")
    clips = [Clip("a", tmp_path / "a", None, "x", "train"), Clip("b", tmp_path / "b", None, "x", "val")]
    clips += [Clip("c", tmp_path / "c", tmp_path / "missing", "y", "test")]
    return ClipList("small", tuple(clips), ("x", "y"), tmp_path)


def test_files_are_read_once_and_again_when_they_change(clip_list, tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "SETTLED_NS", 0)
    read = []
    monkeypatch.setattr(checksums, "checksum", lambda path: read.append(path.name) or checksum(path))
    cache = tmp_path / "cache"
    found = media_checksums(clip_list, cache)
    assert sorted(path.name for path in found) == ["a", "b", "c", "missing"]
    assert found[tmp_path / "missing"] is None
    assert sorted(read) == ["a", "b", "c"]
    assert media_checksums(clip_list, cache) == found
    assert len(read) == 3
    state = (tmp_path / "a").stat()
    (tmp_path / "a").write_text("SAME")
    os.utime(tmp_path / "a", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert media_checksums(clip_list, cache)[tmp_path / "a"] != found[tmp_path / "a"]
    assert read[3:] == ["a"]
    media_checksums(clip_list, cache, anew=True)
    assert sorted(read[4:]) == ["a", "b", "c"]


def test_what_has_changed_just_now_is_not_noted(clip_list, tmp_path):
    media_checksums(clip_list, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_of_large_files_pieces_from_end_to_end_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, "WHOLE", 40)
    monkeypatch.setattr(checksums, "PIECE", 10)
    path = Path(tmp_path / "large")
    path.write_bytes(bytes(100))
    plain = checksum(path)
    for place in (0, 33, 66, 99):
        path.write_bytes(bytes(place) + b"x" + bytes(99 - place))
        assert checksum(path) != plain
    path.write_bytes(bytes(101))
    assert checksum(path) != plain


def test_a_pipe_is_no_medium_to_wait_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        checksum(tmp_path / "pipe")


def test_files_of_the_same_content_in_two_splits_or_under_two_labels_are_told(clip_list):
    found = media_checksums(clip_list)
    assert note_twins(clip_list.clips, found) == [
        "files of the same content stand in two splits: 1, such as a (train) and b (val); remove one of them"
    ]
    apart = [Clip(clip.id, clip.video, None, clip.id, "train") for clip in clip_list.clips]
    assert note_twins(tuple(apart), found) == [
        "files of the same content stand under two labels: 1, such as a (a) and b (b); remove one of them"
    ]
    cut = [Clip("a", apart[0].video, None, "x", "train", 0, 1), Clip("b", apart[1].video, None, "x", "val", 1, 2)]
    assert note_twins(tuple(cut), found) == []
