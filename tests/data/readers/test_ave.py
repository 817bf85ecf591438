import shutil
from collections import Counter

import pytest
from splits import OFFICIAL, needs_official

from raygap.data.clips import LeftOut, ReaderOptions
from raygap.data.readers import read_clips
from raygap.data.readers.ave import CLASSES
from raygap.errors import UserError

TRAIN = ["Violin, fiddle&aaaaaaaaaa1&good&0&10", "Bus&-aaaaaaaa_2&good&3&9", "Cat&aaaaaaaaaa3&good&0&5"]
VAL = ["Bus&bbbbbbbbbb1&good&0&10"]
TEST = ["Bus&cccccccccc1&good&0&10", "Violin, fiddle&cccccccccc2&good&2&4"]


def read(root, **options):
    return read_clips("ave", root, ReaderOptions(**options))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "AVE_Dataset"
    (root / "AVE").mkdir(parents=True)
    (root / "AVE" / "aaaaaaaaaa1.mp4").touch()
    write_lists(root, TRAIN)
    return root


def write_lists(folder, train, val=VAL, test=TEST):
    for split, lines in (("train", train), ("val", val), ("test", test)):
        (folder / f"{split}Set.txt").write_text("".join(f"{line}\n" for line in lines))


def test_events_are_read_with_their_times(root):
    clips = read(root)
    assert clips.class_names == ("Violin, fiddle", "Bus", "Cat")
    assert [(c.id, c.label, c.split, c.start, c.end) for c in clips.clips] == [
        ("aaaaaaaaaa1", "Violin, fiddle", "train", 0, 10),
        ("-aaaaaaaa_2", "Bus", "train", 3, 9),
        ("aaaaaaaaaa3", "Cat", "train", 0, 5),
        ("bbbbbbbbbb1", "Bus", "val", 0, 10),
        ("cccccccccc1", "Bus", "test", 0, 10),
        ("cccccccccc2", "Violin, fiddle", "test", 2, 4),
    ]
    assert clips.clips[1].video == root / "AVE" / "-aaaaaaaa_2.mp4"
    assert clips.clips[1].audio is None
    assert clips.notes == ()


def test_repeats_and_overlaps_leave_train(root):
    write_lists(root, [*TRAIN, "Bus&aaaaaaaaaa1&good&1&2", "Cat&cccccccccc1&good&0&10", "Cat&bbbbbbbbbb1&good&0&10"])
    clips = read(root)
    assert [clip.label for clip in clips.clips if clip.id == "aaaaaaaaaa1"] == ["Violin, fiddle"]
    assert clips.notes == (
        "train: 6 listed, 5 different clips; the first row of each repeated one is kept, also where another "
        "has another label (1)",
        "clips that stand in train and in val: 1, left out of train: bbbbbbbbbb1",
        "clips that stand in train and in test: 1, left out of train: cccccccccc1",
    )
    assert Counter(clip.split for clip in clips.clips) == {"train": 3, "val": 1, "test": 2}
    kept = read(root, keep_overlap=True)
    assert Counter(clip.split for clip in kept.clips) == {"train": 5, "val": 1, "test": 2}
    twice = [clip for clip in kept.clips if clip.video.stem == "cccccccccc1"]
    assert [(clip.id, clip.label) for clip in twice] == [("cccccccccc1@train", "Cat"), ("cccccccccc1", "Bus")]


def test_a_header_windows_lines_and_lists_elsewhere(root, tmp_path):
    plain = read(root)
    lists = tmp_path / "lists"
    lists.mkdir()
    write_lists(lists, ["Category&VideoID&Quality&StartTime&EndTime\r", *(f"{line}\r" for line in TRAIN), "\r"])
    assert read(root, splits=str(lists)) == plain
    classes_in_capitals = [line.split("&")[0].upper() + line[line.index("&") :] for line in TRAIN]
    write_lists(lists, [line.replace("&good", ".mp4&good") for line in classes_in_capitals])
    assert read(root, splits=str(lists)) == plain


def test_of_lists_that_cannot_be_read_the_nearest_form_is_named(root, tmp_path):
    (tmp_path / "train.txt").touch()
    nearest = (
        r"train.txt is none that is read: the nearest is trainSet.txt, with lines like Church bell&---1_cCGK4M&good"
    )
    with pytest.raises(UserError, match=nearest):
        read(root, splits=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Violin, fidle&aaaaaaaaaa4&good&0&10", "unknown class: 'Violin, fidle' (did you mean 'Violin, fiddle'?)"),
        ("Bus&../../etc/pw&good&0&10", "no YouTube id (11 letters, digits, - and _): '../../etc/pw'"),
        ("Bus&Cat&aaaaaaaaaa4&good&0&10", "not class&video&quality&start&end: 'Bus&Cat&aaaaaaaaaa4&good&0&10'"),
        ("Bus&aaaaaaaaaa4&good&0", "not class&video&quality&start&end: 'Bus&aaaaaaaaaa4&good&0'"),
        ("Bus&aaaaaaaaaa4&good&0&ten", "not whole seconds: start '0' and end 'ten'"),
    ],
)
def test_faulty_lines_are_left_out(root, line, message, caplog):
    plain = read(root)
    assert caplog.text == ""
    write_lists(root, [*TRAIN, line])
    clips = read(root)
    assert clips.clips == plain.clips
    assert clips.left_out == (LeftOut("trainSet.txt, line 4", message),)
    assert f"ave: faulty lines left out: 1; the first: trainSet.txt, line 4: {message}" in caplog.text
    write_lists(root, [line, line])
    with pytest.raises(UserError, match=r"trainSet.txt, line 1: .*; no line of this file can be used") as error:
        read(root)
    assert "\n" not in str(error.value)
    write_lists(root, [TRAIN[0], line])
    with pytest.raises(UserError, match=r"no clip of class 'Bus' .* \(faulty lines: 1, such as trainSet.txt, line 2: "):
        read(root)


def test_faults_of_the_folder(root, tmp_path):
    with pytest.raises(UserError, match=r"no folder AVE with .mp4 files; --root names the folder that holds it"):
        read(tmp_path)
    (root / "valSet.txt").unlink()
    with pytest.raises(UserError, match=r"Annotations.txt: no such file; AVE's splits are trainSet.txt, valSet.txt"):
        read(root)


@needs_official
def test_the_official_lists(root):
    clips = read(root, splits=str(OFFICIAL / "ave"))
    assert clips.class_names == CLASSES
    # 3,339, 402 and 402 rows; the rest repeats others, or stands in val (10) or test (8).
    assert Counter(clip.split for clip in clips.clips) == {"train": 3312 - 18, "val": 401, "test": 402}
    assert [note.partition(";")[0] for note in clips.notes[:2]] == [
        "train: 3339 listed, 3312 different clips",
        "val: 402 listed, 401 different clips",
    ]
    assert clips.notes[3].startswith(
        "clips that stand in train and in test: 8, left out of train: -9_5_2i4igQ, -PljzzluWNw"
    )
    kept = read(root, splits=str(OFFICIAL / "ave"), keep_overlap=True)
    assert Counter(clip.split for clip in kept.clips) == {"train": 3312, "val": 401, "test": 402}
    first = []
    for line in (OFFICIAL / "ave" / "testSet.txt").read_text().splitlines():
        first += [line.split("&")[0]] if line.split("&")[0] not in first else []
    assert tuple(first) == CLASSES


@needs_official
def test_order_files_give_what_the_text_files_give(root, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("Annotations.txt", "train_order.h5", "val_order.h5", "test_order.h5"):
        shutil.copy(OFFICIAL / "ave" / name, lists)
    assert read(root, splits=str(lists)) == read(root, splits=str(OFFICIAL / "ave"))
    (lists / "Annotations.txt").write_text("Bus&aaaaaaaaaa4&good&0&10\n")
    with pytest.raises(UserError, match=r"train_order.h5: names row \d+ of .*Annotations.txt, which has 1; get both"):
        read(root, splits=str(lists))
    content = (lists / "train_order.h5").read_bytes()
    for spoiled in (b"", content[:100], content[:5000], b"x" * 3000):
        (lists / "train_order.h5").write_bytes(spoiled)
        with pytest.raises(UserError, match=r"train_order.h5: not one column of 64-bit integers in HDF5; get the file"):
            read(root, splits=str(lists))
