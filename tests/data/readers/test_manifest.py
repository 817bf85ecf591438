from pathlib import Path

import pytest

from raygap.data.clips import LeftOut
from raygap.data.readers.manifest import read_manifest
from raygap.errors import UserError

GOOD = """video,label,split
a.mp4,cat,train
b.mp4,dog,train
c.mp4,cat,val
d.mp4,dog,test
"""


@pytest.fixture
def folder(tmp_path):
    for name in "abcdefgh":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
        (tmp_path / f"{name}.wav").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "b.mp4")
    (tmp_path / "._e.mp4").write_bytes(b"x")
    return tmp_path


def read(folder: Path, text: str | bytes):
    (folder / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder)


def test_a_manifest_is_read(folder):
    clips = read(
        folder,
        "audio,id,video,label,split,planted,start,end\n"
        ",,a.mp4,cat,train,clean,,\n"
        "b.wav,second,b.mp4,dog,train,spoiled,1.5,3\n"
        ",,c.mp4,cat,val,,2,\n"
        f",,{folder}/d.mp4,dog,test,,,4\n",
    )
    assert clips.name == "manifest"
    assert clips.class_names == ("cat", "dog")
    assert clips.root == folder
    first, second, third, fourth = clips.clips
    assert (first.id, first.video, first.audio, first.label, first.split) == (
        "a.mp4",
        folder / "a.mp4",
        None,
        "cat",
        "train",
    )
    assert (first.start, first.end) == (None, None)
    assert (second.id, second.audio, second.start, second.end) == ("second", folder / "b.wav", 1.5, 3.0)
    assert (third.id, third.start, third.end) == ("c.mp4@2.0-", 2.0, None)
    assert (fourth.id, fourth.video) == ("d.mp4@0.0-4.0", folder / "d.mp4")


def test_byte_order_mark_windows_lines_spaces_and_blank_lines(folder):
    messy = "\ufeff" + GOOD.replace(",", " , ").replace("\n", "\r\n") + "\r\n , , \r\n"
    assert read(folder, messy) == read(folder, GOOD)


def test_the_csv_itself_may_be_named(folder):
    expected = read(folder, GOOD)
    (folder / "manifest.csv").rename(folder / "other.csv")
    assert read_manifest(folder / "other.csv") == expected


def test_one_picture_with_two_sounds_gives_two_ids(folder):
    text = GOOD.replace("split\n", "split,audio\n") + "a.mp4,cat,train,a.wav\na.mp4,cat,train,b.wav\n"
    assert [clip.id for clip in read(folder, text).clips if clip.video.name == "a.mp4"] == [
        "a.mp4",
        "a.mp4+a.wav",
        "a.mp4+b.wav",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.csv: the file is empty; it needs the header video,audio,label,split"),
        ("video,label,split\n", "manifest.csv: no clips below the header; add one line a clip"),
        ("video,class,split\na.mp4,cat,train\n", "line 1: no column 'label' among video, class, split; the header"),
        (GOOD.replace(".mp4", ".mov"), "line 2: no such file .*: video a.mov; no line of this file can be used"),
        (GOOD.replace("train", "test"), "no clips with split train; mark some clips as train"),
        (GOOD.replace("val", "train"), "no clips with split val; mark some clips as val"),
        (GOOD.replace("test", "val"), "no clips with split test; mark some clips as test"),
        (GOOD.replace("dog", "cat"), "every label is 'cat'; a classifier needs two classes or more"),
        (
            GOOD.replace("val", "eval"),
            "no clips with split val; mark some clips as val \\(faulty lines: 1, such as .*, line 4: unknown split",
        ),
        (GOOD.encode() + b"\xff\xfe,cat,train\n", "line 6: not UTF-8 text; save it in UTF-8"),
    ],
)
def test_faults_are_told_in_one_line(folder, text, message):
    with pytest.raises(UserError, match=message) as error:
        read(folder, text)
    assert "\n" not in str(error.value)
    assert str(folder / "manifest.csv") in str(error.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x.mp4,cat,train", "no such file (paths are relative to the manifest): video x.mp4"),
        ("e.mp4,cat,train,x.wav", "no such file (paths are relative to the manifest): audio x.wav"),
        (".,cat,train", "a folder without pictures (paths are relative to the manifest): video ."),
        (
            "a/../../b.mp4,cat,train",
            "leads out of the manifest's folder (put that above its media, or give a whole path): a/../../b.mp4",
        ),
        (",cat,train", "no video: the column is empty"),
        ("e.mp4,,train", "no label: the column is empty"),
        ("e.mp4", "no label: the column is empty"),
        ("e.mp4,cat,eval", "unknown split (use train, val or test): 'eval'"),
        ("e.mp4,cow,test", "no clip of this class for training: 'cow'"),
        ("b.mp4,cat,test", "repeated: the same media and times as line 3, which says label dog and split train"),
        ("b.mp4,cat,train", "repeated: the same media and times as line 3, which says label dog"),
        ("link.mp4,dog,test", "repeated: the same media and times as line 3, which says split train"),
        ("b.mp4,dog,train,b.mp4,0,,", "repeated: the same media and times as line 3"),
        ("e.mp4,cat,train,,3,2,", "ends before it starts (times are in seconds): start 3, end 2"),
        ("e.mp4,cat,train,,,0,", "ends before it starts (times are in seconds): start 0, end 0"),
        ("e.mp4,cat,train,,0:03,,", "no time (seconds such as 2.5, or nothing): start '0:03'"),
        ("e.mp4,cat,train,,-1,,", "no time (seconds such as 2.5, or nothing): start '-1'"),
        ("e.mp4,cat,train,,,inf,", "no time (seconds such as 2.5, or nothing): end 'inf'"),
        ("e.mp4,cat,train,,,,one", "id taken: it is that of line 2"),
        ("e.mp4,cat,train,,1,2,, old", "8 fields, the header has 7; quote a value with a comma"),
        ('e.mp4,"cat\ntwo",train,,,,', "label of several lines (is a quote not closed?): 'cat\\ntwo'"),
        ("._e.mp4,cat,train", "macOS's notes on a file, not the file: video ._e.mp4"),
        (
            "C:\\clips\\e.mp4,cat,train",
            "no such file (a path of Windows; write it as it is on this machine, or relative to the manifest): "
            "video C:\\clips\\e.mp4",
        ),
        (
            "..\\b.mp4,cat,train",
            "leads out of the manifest's folder (put that above its media, or give a whole path): ..\\b.mp4",
        ),
        (f"{'e' * 300}.mp4,cat,train", f"no such file (paths are relative to the manifest): video {'e' * 300}.mp4"),
    ],
)
def test_faulty_lines_are_left_out(folder, row, reason):
    lines = GOOD.replace("\n", ",,,,\n").splitlines()
    lines[0] = "video,label,split,audio,start,end,id"
    lines[1] = "a.mp4,cat,train,,,,one"
    plain = read(folder, "\n".join(lines))
    clips = read(folder, "\n".join([*lines, row]))
    assert (clips.clips, clips.class_names) == (plain.clips, plain.class_names)
    assert clips.left_out == (LeftOut("manifest.csv, line 6", reason),)


def test_links_are_followed_wherever_they_lead(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.mp4").write_bytes(b"x")
    (folder / "linked").symlink_to(elsewhere)
    clips = read(folder, GOOD + "linked/e.mp4,cat,train\n")
    assert (clips.clips[-1].id, clips.left_out) == ("linked/e.mp4", ())


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_capitals_and_names_of_splits(folder, separator):
    other = GOOD.replace("train", "Training").replace("val", " DEV ").replace("test", "TEST")
    other = other.replace("video,label,split", "Video,LABEL,Split").replace(",", separator)
    assert read(folder, other) == read(folder, GOOD)
    odd = other + separator.join(("e.mp4", "cat", "train", "more"))
    said = "semicolon" if separator == ";" else "tab"
    assert [line.reason for line in read(folder, odd).left_out] == [
        f"4 fields, the header has 3; quote a value with a {said}"
    ]


def test_more_fields_than_the_header_are_no_values_of_others(folder):
    unquoted = GOOD.replace("cat", "guitar, acoustic").replace("dog", "guitar, electric")
    with pytest.raises(UserError, match=r"line 2: 4 fields, the header has 3; quote a value with a comma; no line"):
        read(folder, unquoted)
    quoted = GOOD.replace("cat", '"guitar, acoustic"').replace("dog", ' "guitar, electric"')
    assert read(folder, quoted).class_names == ("guitar, acoustic", "guitar, electric")
    assert read(folder, GOOD.replace("\n", ",,\n").replace("split,,", "split")).left_out == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("dog,train", '"dog,train'), r"line 3: a quoted value runs over several lines; close its quote"),
        (GOOD.replace("split", "split,Label"), r"line 1: column 'label' comes twice; keep one"),
    ],
)
def test_a_table_that_would_lose_values_is_refused(folder, text, message):
    with pytest.raises(UserError, match=message):
        read(folder, text)


def test_paths_written_on_another_system(folder):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    (folder / decomposed).mkdir()
    (folder / decomposed / "e.mp4").write_bytes(b"x")
    rows = f"{composed}\\e.mp4,{decomposed},train\na.wav,{composed},train\n"
    clips = read(folder, GOOD + rows)
    assert [(clip.id, clip.label) for clip in clips.clips[-2:]] == [
        (f"{composed}/e.mp4", composed),
        ("a.wav", composed),
    ]
    assert clips.clips[-2].video == folder / decomposed / "e.mp4"
    assert clips.class_names == (composed, "cat", "dog")


@pytest.mark.parametrize(
    ("labels", "expected"), [(("10", "2"), ("2", "10")), (("01", "08"), ("01", "08")), (("2a", "10"), ("10", "2a"))]
)
def test_labels_that_are_numbers_stay_text(folder, labels, expected):
    assert read(folder, GOOD.replace("cat", labels[0]).replace("dog", labels[1])).class_names == expected


def test_a_file_in_two_splits_or_under_two_labels_is_noted(folder):
    text = GOOD.replace("split\n", "split,start,end\n").replace("\na.mp4,cat,train", "\na.mp4,cat,train,0,2")
    assert read(folder, text + "a.mp4,cat,train,1,3\n").notes == ()
    clips = read(folder, text + "a.mp4,cat,test,1,3\na.mp4,cat,val,3,4\nb.mp4,cat,train,5,\n")
    assert clips.left_out == ()
    assert clips.notes == (
        "clips of val or test that share seconds of a file with another split: 1: a.mp4@1.0-3.0",
        "clips of val or test that share a file, but no seconds, with another split: 1: a.mp4@3.0-4.0",
        "clips that share seconds of a file with another label: 2: b.mp4, b.mp4@5.0-",
    )


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"manifest.csv: no such file; --root names a manifest, or a folder"):
        read_manifest(tmp_path)
