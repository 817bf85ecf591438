from collections import Counter

import pytest

from raygap.data.clips import LeftOut
from raygap.data.readers.lists import Entry, carve, drop_overlap, drop_repeats, present_classes, read_rows, read_text
from raygap.errors import UserError

ENTRIES = [
    Entry(f"{label}{i}", label, "train")
    for label, count in (("cat", 90), ("dog", 18), ("cow", 1))
    for i in range(count)
]


def split_of(entries):
    return {entry.id: entry.split for entry in entries}


def test_text_in_the_forms_that_editors_write(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfa , b\r\n\r\n"c,d",e\r\n')
    assert read_rows(path) == [(1, ["a", "b"]), (3, ["c,d", "e"])]
    path.write_bytes(b"\n \n")
    with pytest.raises(UserError, match=r"list.csv: the file is empty; it needs a line a clip"):
        read_rows(path)
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(UserError, match=r"list.csv, line 2: not UTF-8 text; save it in UTF-8"):
        read_text(path)


def test_validation_is_a_share_of_each_class_and_never_all_of_it():
    moved = [entry for entry in carve(ENTRIES, "val", 1 / 9) if entry.split == "val"]
    assert Counter(entry.label for entry in moved) == {"cat": 10, "dog": 2}
    assert carve(ENTRIES, "val", 1 / 9) == carve(ENTRIES, "val", 1 / 9)


def test_a_clip_less_in_the_list_moves_hardly_any_other():
    whole = split_of(carve(ENTRIES, "val", 1 / 9))
    fewer = split_of(carve(ENTRIES[1:], "val", 1 / 9))
    assert sum(whole[name] != split for name, split in fewer.items()) <= 2
    assert split_of(carve(ENTRIES[::-1], "val", 1 / 9)) == whole


def test_whole_groups_are_moved():
    moved = carve(ENTRIES, "test", 0.3, group=lambda entry: entry.id[-1])
    ends = {split: {entry.id[-1] for entry in moved if entry.split == split} for split in ("train", "test")}
    assert len(ends["test"]) == 3
    assert not ends["train"] & ends["test"]


def test_repeats_and_overlaps_are_noted():
    entries = [Entry("a", "x", "train"), Entry("a", "y", "train"), Entry("b", "x", "train"), Entry("b", "x", "test")]
    notes = []
    kept = drop_repeats(entries, notes)
    assert kept == [entries[0], *entries[2:]]
    assert notes == [
        "train: 3 listed, 2 different clips; the first row of each repeated one is kept, also where another "
        "has another label (1)"
    ]
    assert drop_overlap(kept, False, notes) == [entries[0], entries[3]]
    assert notes[1] == "clips that stand in train and in test: 1, left out of train: b"
    assert [entry.id for entry in drop_overlap(kept, True, notes)] == ["a", "b@train", "b"]
    assert notes[2] == "clips that stand in train and in test: 1, kept in train (--keep-overlap): b"


def test_classes_keep_the_published_order(tmp_path):
    entries = [Entry("1", "b", "train"), Entry("2", "a", "train"), Entry("3", "a", "val"), Entry("4", "a", "test")]
    assert present_classes(tmp_path, entries, ("c", "b", "a")) == ("b", "a")
    faulty = [LeftOut("list.csv, line 7", "unknown class: 'd'")]
    with pytest.raises(
        UserError, match=r"split test; .* \(faulty lines: 1, such as list.csv, line 7: unknown class: 'd'"
    ):
        present_classes(tmp_path, entries[:3], ("b", "a"), faulty)
    for some, message in (
        (entries[:3], "no clips for split test; check that lists and media belong together"),
        (entries[1:], "every clip is of class 'a'; a classifier needs two classes or more"),
        ([*entries, Entry("5", "c", "val")], "no clip of class 'c' for training; add some, or take the class out"),
    ):
        with pytest.raises(UserError, match=message):
            present_classes(tmp_path, some, ("c", "b", "a"))
