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
            GOOD.replace("val", "valid"),
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
        (".,cat,train", "a folder (paths are relative to the manifest): video ."),
        (
            "a/../../b.mp4,cat,train",
            "leads out of the manifest's folder (put that above its media, or give a whole path): a/../../b.mp4",
        ),
        (",cat,train", "no video: the column is empty"),
        ("e.mp4,,train", "no label: the column is empty"),
        ("e.mp4", "no label: the column is empty"),
        ("e.mp4,cat,valid", "unknown split (use train, val or test): 'valid'"),
        ("e.mp4,cow,test", "no clip of this class for training: 'cow'"),
        ("b.mp4,cat,test", "repeated: the same media and times as line 3"),
        ("b.mp4,dog,train,b.mp4,0,,", "repeated: the same media and times as line 3"),
        ("e.mp4,cat,train,,3,2,", "ends before it starts (times are in seconds): start 3, end 2"),
        ("e.mp4,cat,train,,,0,", "ends before it starts (times are in seconds): start 0, end 0"),
        ("e.mp4,cat,train,,0:03,,", "no time (seconds such as 2.5, or nothing): start '0:03'"),
        ("e.mp4,cat,train,,-1,,", "no time (seconds such as 2.5, or nothing): start '-1'"),
        ("e.mp4,cat,train,,,inf,", "no time (seconds such as 2.5, or nothing): end 'inf'"),
        ("e.mp4,cat,train,,,,one", "id taken: it is that of line 2"),
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


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"manifest.csv: no such file; --root names a manifest, or a folder"):
        read_manifest(tmp_path)
