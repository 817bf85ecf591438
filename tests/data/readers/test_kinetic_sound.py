import json
from collections import Counter

import pytest
from media import RED, solid, tone, write_mp4
from splits import OFFICIAL, needs_official

from raygap.data import notes
from raygap.data.clips import LeftOut, ReaderOptions
from raygap.data.readers import read_clips
from raygap.data.readers.kinetic_sound import CLASSES
from raygap.errors import UserError

TRAIN = {f"train-{i:03d}-a_{i:06d}_{i + 10:06d}": (0, 30)[i % 2] for i in range(40)}
TEST = {f"test--{i:03d}-b_{i}": (0, 30)[i % 2] for i in range(6)}


def read(root, **options):
    return read_clips("kinetic_sound", root, ReaderOptions(**options))


def counts(clip_list):
    return Counter(clip.split for clip in clip_list.clips)


def write_index_lists(folder, train=TRAIN, test=TEST):
    for split, rows in (("train", train), ("test", test)):
        text = "".join(f"{name},10,{label}\r\n" for name, label in rows.items())
        (folder / f"my_{split}.txt").write_bytes(text.encode())


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").touch()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where lengths of files are noted."""
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "videos"
    touch(root / "any" / "depth", [*TRAIN, *TEST])
    return root


def test_index_lists_with_validation_drawn_from_train(root):
    write_index_lists(root)
    clips = read(root)
    assert clips.class_names == ("blowing_nose", "tickling")
    assert counts(clips) == {"train": 36, "val": 4, "test": 6}
    assert clips.notes == ("validation: 4 clips drawn from train, stratified",)
    first = clips.clips[0]
    assert (first.id, first.start, first.end) == ("train-000-a_000000_000010", None, None)
    assert first.video == root / "any" / "depth" / f"{first.id}.mp4"


def test_missing_videos_are_counted_by_class(root):
    write_index_lists(root)
    whole = {clip.id: clip.split for clip in read(root).clips}
    gone = [name for name in TRAIN if TRAIN[name] == 30][:5] + list(TEST)[:1]
    for name in gone:
        (root / "any" / "depth" / f"{name}.mp4").unlink()
    clips = read(root)
    assert {clip.id: clip.split for clip in clips.clips} == {k: v for k, v in whole.items() if k not in gone}
    drawn = sum(whole[name] == "val" for name in gone)
    assert clips.notes[-2:] == (
        f"listed videos without a file, left out: {5 - drawn} of 36 train, {drawn} of 4 val, 1 of 6 test",
        "missing by class: tickling 22%, blowing_nose 4%",
    )
    for name in TRAIN:
        if TRAIN[name] == 30:
            (root / "any" / "depth" / f"{name}.mp4").unlink(missing_ok=True)
    for name in TEST:
        (root / "any" / "depth" / f"{name}.mp4").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"no video of class 'tickling' is there; download some, or use lists without"):
        read(root)


def test_the_json_list(root):
    subsets = {"training": list(TRAIN)[:30], "validation": list(TRAIN)[30:], "testing": list(TEST)}
    labels = {name: CLASSES[index] for name, index in (TRAIN | TEST).items()}
    database = {name: {"subset": subset, "label": labels[name]} for subset in subsets for name in subsets[subset]}
    path = root / "KS_train_val.json"
    path.write_text(json.dumps({"labels": CLASSES, "database": database}))
    assert counts(read(root)) == {"train": 30, "val": 10, "test": 6}
    assert read(root).notes == ()
    first, second, third = list(TRAIN)[:3]
    database[first]["label"] = "blowing_noise"
    database[second]["subset"] = "trainig"
    database[third] = None
    path.write_text(json.dumps({"labels": CLASSES, "database": database | {"../x": database[list(TRAIN)[3]]}}))
    clips = read(root)
    assert counts(clips) == {"train": 27, "val": 10, "test": 6}
    assert [(line.id, line.reason[:40]) for line in clips.left_out] == [
        (f"KS_train_val.json, entry {first}", "unknown class: 'blowing_noise' (did you "),
        (f"KS_train_val.json, entry {second}", "no label, or another subset than trainin"),
        (f"KS_train_val.json, entry {third}", "no label, or another subset than trainin"),
        ("KS_train_val.json, entry ../x", "no clip (11 letters of a YouTube id, _st"),
    ]
    for spoiled in ("{", "[]", '{"database": []}'):
        path.write_text(spoiled)
        with pytest.raises(UserError, match=r"json: not the published list of KineticSound"):
            read(root)
    path.write_text('{"database": {"a": {"label": "x", "subset": "y"}}}')
    with pytest.raises(UserError, match=r"json, entry a: .*; no entry of this file can be used"):
        read(root)


def kinetics_csv(rows, split, labels=True):
    header = ["label,"] if labels else [""]
    lines = [header[0] + "youtube_id,time_start,time_end,split"]
    for name, index in rows.items():
        start = int(name.split("_")[1]) if "_" in name[11:] else 0
        label = CLASSES[index].replace("_", " ")
        lines.append((f"{label}," if labels else "") + f"{name[:11]},{start},{start + 10},{split}")
    return "\n".join([*lines, ("abseiling," if labels else "") + f"--zzzzzzzz1,1,11,{split}", ""])


@pytest.mark.parametrize("folder", [".", "annotations"])
def test_kinetics_own_csv_files(root, folder):
    (root / folder).mkdir(exist_ok=True)
    train = {name: index for name, index in TRAIN.items() if int(name[6:9]) < 30}
    val = {name: index for name, index in TRAIN.items() if int(name[6:9]) >= 30}
    (root / folder / "train.csv").write_text(kinetics_csv(train, "train"))
    (root / folder / "validate.csv").write_text(kinetics_csv(val, "validate"))
    (root / folder / "test.csv").write_text(kinetics_csv(TEST, "test"))
    clips = read(root)
    assert counts(clips) == {"train": 30, "val": 10, "test": 6}
    assert clips.notes == ()
    # Kinetics' first release kept the labels of test: its validation is tested on.
    (root / folder / "test.csv").write_text(kinetics_csv(TEST, "test", labels=False))
    clips = read(root)
    assert counts(clips) == {"train": 26, "val": 4, "test": 10}
    assert clips.notes[0] == "no labelled test split: the validation split is tested on"
    (root / folder / "train.csv").write_text("label,youtube_id\nabseiling,--zzzzzzzz1\n")
    with pytest.raises(UserError, match=r"train.csv: no row has a class of KineticSound; its classes are blowing_nose"):
        read(root)
    (root / folder / "train.csv").write_text("name,label\n--zzzzzzzz1,bowling\n")
    with pytest.raises(UserError, match=r"train.csv, line 1: no column 'youtube_id' among name, label"):
        read(root)


def test_an_overlap_that_is_kept_finds_its_video(root):
    both = next(iter(TRAIN))
    (root / "train.csv").write_text(kinetics_csv(TRAIN, "train"))
    (root / "validate.csv").write_text(kinetics_csv({both: TRAIN[both]} | dict(list(TEST.items())[:3]), "validate"))
    (root / "test.csv").write_text(kinetics_csv(dict(list(TEST.items())[3:]), "test"))
    assert counts(read(root)) == {"train": 39, "val": 4, "test": 3}
    kept = read(root, keep_overlap=True)
    assert counts(kept) == {"train": 40, "val": 4, "test": 3}
    assert len({clip.video for clip in kept.clips if clip.id.startswith("train-000-a")}) == 1
    assert not any("without a file" in note for note in kept.notes)


def test_folders_named_after_classes(tmp_path):
    for label in ("playing_organ", "tap dancing", "abseiling"):
        touch(tmp_path / "train" / label, [f"{label[:3]}{i:08d}" for i in range(18)])
        touch(tmp_path / "val" / label, [f"{label[:3]}{i:08d}" for i in range(50, 53)])
    clips = read(tmp_path)
    assert clips.class_names == ("playing_organ", "tap_dancing")
    assert counts(clips)["test"] == 6
    touch(tmp_path / "test" / "tap dancing", ["tap00000099"])
    assert counts(read(tmp_path))["test"] == 1


def test_folders_of_classes_without_splits(tmp_path):
    for label in ("playing_organ", "tap dancing", "abseiling"):
        touch(tmp_path / label, [f"{label[:3]}{i:08d}" for i in range(20)])
    clips = read(tmp_path)
    assert clips.class_names == ("playing_organ", "tap_dancing")
    assert counts(clips) == {"train": 30, "val": 4, "test": 6}
    assert clips.notes[0].startswith(
        "no lists and no folders of splits: 6 clips drawn for test, stratified; not a publ"
    )
    assert {clip.video.parent.name for clip in clips.clips if clip.split == "test"} == {"playing_organ", "tap dancing"}
    assert read(tmp_path) == clips


LEFTOVERS = ("._{}.mp4", "{}.temp.mp4", "{}.f137.mp4", "{} (1).mp4", "{} - Copy.mp4", ".{}.mp4", "{}.part.webm")
IGNORED = ("Thumbs.db", ".DS_Store", "{}.mp4.part", "{}.webm.crdownload", "{}.mp4.ytdl")


def test_leftovers_become_no_clips(tmp_path):
    for label in ("playing_organ", "tickling"):
        touch(tmp_path / label, [f"{label[:3]}{i:08d}" for i in range(20)])
    plain = read(tmp_path)
    for i, name in enumerate((*LEFTOVERS, *IGNORED)):
        (tmp_path / "tickling" / name.format(f"tic{i:08d}")).touch()
    touch(tmp_path / "__MACOSX" / "tickling", ["tic00000001"])
    clips = read(tmp_path)
    assert clips.clips == plain.clips
    assert clips.notes[1] == (
        "hidden or unfinished files, and copies, passed over: 7: ._tic00000000.mp4, .tic00000005.mp4, "
        "tic00000001.temp.mp4, ..."
    )
    # A file of such a name without the file that it would be a copy of is one of the user's own.
    (tmp_path / "tickling" / "clip (1).mp4").touch()
    assert len(read(tmp_path).clips) == len(plain.clips) + 1


def test_listed_videos_are_not_looked_for_in_hidden_folders(root):
    write_index_lists(root)
    plain = read(root)
    for folder in ("__MACOSX", ".Trash-1000", "@eaDir"):
        touch(root / folder, [next(iter(TRAIN))])
    (root / "any" / "depth" / f"._{next(iter(TRAIN))}.mp4").touch()
    assert read(root).clips == plain.clips


def test_names_of_splits_in_other_words(tmp_path):
    for split in ("Train", "DEV", "testing"):
        for i, label in enumerate(("singing", "tickling")):
            touch(tmp_path / split / label, [f"{split[:2]}{i}{k:08d}" for k in range(3)])
    touch(tmp_path / "train.old" / "singing", ["old00000000"])
    assert counts(read(tmp_path)) == {"train": 6, "val": 6, "test": 6}


def test_suffixes_in_capitals(tmp_path):
    plain, capitals = tmp_path / "plain", tmp_path / "capitals"
    touch(plain, [*TRAIN, *TEST])
    write_index_lists(plain)
    capitals.mkdir()
    for file in plain.glob("*.mp4"):
        (capitals / f"{file.stem}.MP4").touch()
    assert [clip.id for clip in read(capitals, splits=str(plain)).clips] == [clip.id for clip in read(plain).clips]
    for label in ("singing", "tickling"):
        (tmp_path / label).mkdir()
        for i in range(10):
            (tmp_path / label / f"{label}-{i:03d}.Mp4").touch()
    assert len(read(tmp_path).clips) == 20


def test_several_files_of_one_video(tmp_path):
    root = tmp_path / "videos"
    touch(root, [*TRAIN, *TEST, "train-003-a_000077_000087"])
    write_index_lists(root)
    by_id = {clip.id: clip for clip in read(root).clips}
    wanted = "train-003-a"
    name = next(key for key in TRAIN if key.startswith(wanted))
    assert by_id[name].video.stem == name
    (root / f"{name}.mp4").unlink()
    assert name not in {clip.id for clip in read(root).clips}


def test_a_whole_video_is_cut_to_the_listed_time_and_a_clip_is_not(tmp_path):
    root = tmp_path / "videos"
    touch(root, [*TRAIN, *TEST])
    long, short = list(TRAIN)[2:4]
    for name, seconds in ((long, 20.0), (short, 1.0)):
        (root / f"{name}.mp4").unlink()
        write_mp4(root / f"{name[:11]}.mp4", solid(RED, seconds=seconds), tone(440, seconds=seconds))
    write_index_lists(root)
    by_id = {clip.id: clip for clip in read(root).clips}
    assert (by_id[long].start, by_id[long].end) == (2.0, 12.0)
    assert (by_id[short].start, by_id[short].end) == (None, None)


def test_videos_are_opened_once_to_learn_their_lengths(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path / "cache"))
    opened = []
    monkeypatch.setattr("raygap.data.media.files.file_seconds", lambda path: opened.append(path) or 20.0)
    monkeypatch.setattr(notes, "SETTLED_NS", 0)
    root = tmp_path / "videos"
    touch(root, [name[:11] for name in TRAIN | TEST])
    write_index_lists(root)
    clips = read(root)
    assert len(opened) == len(TRAIN | TEST)
    assert read(root) == clips
    assert len(opened) == len(TRAIN | TEST)
    path = clips.clips[0].video
    path.write_bytes(b"longer")
    read(root)
    path.write_bytes(b"edited")  # no longer than before
    read(root)
    assert opened[len(TRAIN | TEST) :] == [path, path]
    (tmp_path / "cache" / "kinetic_sound-seconds.json").write_text("[")
    assert read(root) == clips


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../../etc/p,10,3", "no clip (11 letters of a YouTube id, _start, _end): '../../../etc/p'"),
        (
            "--4-0ihtnBU_000058_000068,10,31",
            "not id,10,class with a class from 0 to 30: '--4-0ihtnBU_000058_000068,10,31'",
        ),
        ("--4-0ihtnBU_000058_000068,10", "not id,10,class with a class from 0 to 30: '--4-0ihtnBU_000058_000068,10'"),
    ],
)
def test_faulty_lines_are_left_out(root, line, message):
    write_index_lists(root)
    plain = read(root)
    with (root / "my_train.txt").open("a") as file:
        file.write(line)
    clips = read(root)
    assert clips.clips == plain.clips
    assert clips.left_out == (LeftOut("my_train.txt, line 41", message),)
    (root / "my_train.txt").write_text(line)
    with pytest.raises(UserError, match=r"my_train.txt, line 1: .*; no line of this file can be used"):
        read(root)


def test_faulty_rows_of_kinetics_own_files_are_left_out(root):
    bad = "playing, slowly,--zzzzzzzz2,1,2,train\n"
    bad += "bowling,../../../etc,1,2,train\nbowling,--zzzzzzzz1,one,two,train\nbowling,--zzzzzzzz1,inf,inf,train\n"
    (root / "train.csv").write_text(kinetics_csv(TRAIN, "train") + bad)
    (root / "test.csv").write_text(kinetics_csv(TEST, "test"))
    assert [(line.id, line.reason) for line in read(root).left_out] == [
        ("train.csv, line 43", "6 fields, the header has 5; quote a value with a comma"),
        ("train.csv, line 44", "no clip (11 letters of a YouTube id, _start, _end): '../../../etc_000001_000002'"),
        ("train.csv, line 45", "no seconds: time_start 'one' and time_end 'two'"),
        ("train.csv, line 46", "no seconds: time_start 'inf' and time_end 'inf'"),
    ]


def test_faults_of_the_folder(root, tmp_path):
    with pytest.raises(
        UserError, match=r"no lists .* and no folders train/<class> or <class> with videos; name .* --spl"
    ):
        read(root)
    with pytest.raises(UserError, match=r"no KS_train_val.json, my_train.txt and my_test.txt, or train.csv in this"):
        read(root, splits=str(root))
    write_index_lists(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no video named by a YouTube id under this folder; --root names"):
        read(tmp_path / "empty", splits=str(tmp_path))


@needs_official
def test_the_official_lists(tmp_path):
    lists = OFFICIAL / "kinetic_sound"
    database = json.loads((lists / "KS_train_val.json").read_text())["database"]
    root = tmp_path / "videos"
    touch(root, database)
    clips = read(root, splits=str(lists))
    assert counts(clips) == {"train": 14_799, "test": 2_597, "val": 1_320}
    assert clips.class_names == CLASSES
    assert clips.notes == ()
    text_only = tmp_path / "lists"
    text_only.mkdir()
    for name in ("my_train.txt", "my_test.txt"):
        (text_only / name).write_bytes((lists / name).read_bytes())
    drawn = read(root, splits=str(text_only))
    assert counts(drawn)["train"] + counts(drawn)["val"] == 14_799
    assert counts(drawn)["test"] == 2_597
    labels = {clip.id: clip.label for clip in clips.clips}
    assert all(labels[clip.id] == clip.label for clip in drawn.clips)
