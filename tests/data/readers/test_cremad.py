import json
from collections import Counter

import pytest
from splits import OFFICIAL, needs_official

from raygap.data.clips import LeftOut, ReaderOptions
from raygap.data.readers import read_clips
from raygap.errors import UserError


def read(root, **options):
    return read_clips("cremad", root, ReaderOptions(**options))


def counts(clip_list):
    return Counter(clip.split for clip in clip_list.clips)


def actors(clip_list, split):
    return {clip.id[:4] for clip in clip_list.clips if clip.split == split}


@pytest.fixture
def root(tmp_path):
    """20 actors, three sentences, two emotions: 120 clips; the files are empty."""
    root = tmp_path / "CREMA-D"
    for folder, kind in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
        (root / folder).mkdir(parents=True)
        for actor in range(1001, 1021):
            for sentence in ("IEO", "TIE", "DFA"):
                for emotion in ("ANG", "NEU"):
                    (root / folder / f"{actor}_{sentence}_{emotion}_XX.{kind}").touch()
    return root


def write_lists(folder, train="", test="", **others):
    names = [f"{actor}_{sentence}" for actor in range(1001, 1021) for sentence in ("IEO", "TIE", "DFA")]
    lines = [f"{name}_{emotion}_XX,{emotion}\n" for name in names for emotion in ("ANG", "NEU")]
    texts = {"train": train or "".join(lines[12:]), "test": test or "".join(lines[:12]), **others}
    for name, text in texts.items():
        (folder / f"{name}.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return texts


def test_split_files_say_what_is_trained_and_tested_on(root):
    write_lists(root)
    clips = read(root)
    assert clips.name == "cremad"
    assert clips.class_names == ("NEU", "ANG")
    assert counts(clips) == {"train": 96, "val": 12, "test": 12}
    first = clips.clips[-1]
    assert (first.id, first.label, first.split) == ("1002_DFA_NEU_XX", "NEU", "test")
    assert first.video == root / "VideoFlash" / "1002_DFA_NEU_XX.flv"
    assert first.audio == root / "AudioWAV" / "1002_DFA_NEU_XX.wav"
    assert clips.notes == ("validation: 12 clips drawn from train, stratified",)
    assert {label for clip in clips.clips if clip.split == "val" for label in [clip.label]} == {"NEU", "ANG"}


def test_published_forms_of_the_lists(root, tmp_path):
    texts = write_lists(root)
    plain = read(root)
    lists = tmp_path / "lists"
    lists.mkdir()
    for form in ("\ufeff{}", "name,label\n{}", "\ufeffname,label\r\n{}\r\n", "name,class\n{}", "Filename,Emotion\n{}"):
        write_lists(lists, **{name: form.format(text).replace("\n", "\r\n") for name, text in texts.items()})
        assert read(root, splits=str(lists)) == plain
    for header in ("", ",name,label\n"):
        numbered = {
            name: header + "".join(f"{i},{line}\n" for i, line in enumerate(text.splitlines()))
            for name, text in texts.items()
        }
        write_lists(lists, **numbered)
        assert read(root, splits=str(lists)) == plain


def test_lists_separated_by_blanks_with_names_of_files_and_words_for_labels(root, tmp_path):
    texts = write_lists(root)
    plain = read(root)
    words = {"ANG": "Anger", "NEU": "neutral"}
    (lists := tmp_path / "mla").mkdir()
    for split in ("train", "test"):
        rows = [line.split(",") for line in texts[split].split()]
        text = "".join(f"{name}.flv  {words[label]} \n" for name, label in rows)
        (lists / f"my_{split}_cre.txt").write_text(text)
    assert read(root, splits=str(lists)) == plain
    for change in (lambda line: line.replace(",", ".WAV,"), lambda line: line.replace(",ANG", ",Angry"), str.swapcase):
        changed = "".join(f"{line[:15]}{change(line[15:])}\n" for line in texts["train"].split())
        write_lists(root, train=changed, test=texts["test"])
        assert read(root) == plain


def test_the_first_of_mlbs_folds(root, tmp_path):
    texts = write_lists(root)
    names = [line.split(",")[0] for line in texts["train"].split()]
    tested = [line.split(",")[0] for line in texts["test"].split()]
    fold = {"train": [f"{n}.wav" for n in names[12:]], "val": [f"{n}.wav" for n in names[:12]], "test": tested}
    (lists := tmp_path / "mlb").mkdir()
    (lists / "data_splits_VALV.json").write_text(json.dumps({"10": {}, "1": fold, "2": {}}))
    clips = read(root, splits=str(lists))
    assert counts(clips) == {"train": 96, "val": 12, "test": 12}
    assert [clip.id for clip in clips.clips if clip.split == "val"] == names[:12]
    assert clips.notes == ("data_splits_VALV.json: fold 1 of 3 is read",)
    (lists / "data_splits_VALV.json").write_text('{"1": {"train": []}}')
    with pytest.raises(UserError, match=r"VALV.json: not MLB's folds of CREMA-D \('val'\), which look like"):
        read(root, splits=str(lists))


def test_of_lists_that_cannot_be_read_the_nearest_form_is_named(root, tmp_path):
    (lists := tmp_path / "lists").mkdir()
    (lists / "my_train.txt").touch()
    nearest = r"my_train.txt is none that is read: the nearest is my_train_cre.txt, with lines like 1001_IEO_NEU_XX.flv"
    with pytest.raises(UserError, match=nearest):
        read(root, splits=str(lists))


def test_validation_by_actors_and_by_a_list(root):
    texts = write_lists(root)
    by_actors = read(root, val="actors")
    assert counts(by_actors) == {"train": 96, "val": 12, "test": 12}
    assert len(actors(by_actors, "val")) == 2
    assert not actors(by_actors, "val") & actors(by_actors, "train")
    (root / "val.csv").write_text("".join(texts["train"].splitlines(keepends=True)[:7]))
    assert counts(read(root)) == {"train": 101, "val": 7, "test": 12}
    assert read(root, val="actors").clips[:100] != read(root).clips[:100]
    assert actors(read(root, val="actors"), "val") == actors(by_actors, "val")


def test_without_lists_no_actor_is_in_two_splits(root):
    clips = read(root)
    assert counts(clips) == {"train": 90, "val": 12, "test": 18}
    groups = [actors(clips, split) for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 20
    assert clips == read(root)
    assert "whole actors are held out for test" in clips.notes[0]
    stratified = read(root, val="stratified")
    assert actors(stratified, "test") == groups[2]
    assert actors(stratified, "val") & actors(stratified, "train")


def test_known_speakers_are_told(root):
    texts = write_lists(root)
    write_lists(root, train=texts["test"].splitlines(keepends=True)[0] + texts["train"], test=texts["test"])
    clips = read(root)
    assert clips.notes[0] == "clips that stand in train and in test: 1, left out of train: 1001_IEO_ANG_XX"
    lines = texts["test"].splitlines(keepends=True)
    write_lists(root, train=texts["train"] + lines[0], test="".join(lines[1:]))
    assert read(root).notes[-1] == "test has 1 actors that train has too: the result holds for known speakers"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "../../1001_IEO_ANG_XX,ANG",
            "no clip of CREMA-D (they are named like 1001_IEO_NEU_XX): '../../1001_IEO_ANG_XX,ANG'",
        ),
        ("1001_IEO_JOY_XX,JOY", "no clip of CREMA-D (they are named like 1001_IEO_NEU_XX): '1001_IEO_JOY_XX,JOY'"),
        ("1001_IEO_ANG_XX,NEU", "another label than the name's, or none: '1001_IEO_ANG_XX,NEU'"),
        ("1001_IEO_ANG_XX", "another label than the name's, or none: '1001_IEO_ANG_XX'"),
        ("1001_IEO_ANG_XX,NEU,ANG", "another label than the name's, or none: '1001_IEO_ANG_XX,NEU,ANG'"),
    ],
)
def test_faulty_lines_are_left_out(root, line, message):
    texts = write_lists(root)
    plain = read(root)
    write_lists(root, train=texts["train"] + line)
    clips = read(root)
    assert clips.clips == plain.clips
    assert clips.left_out == (LeftOut("train.csv, line 109", message),)
    write_lists(root, train=line)
    with pytest.raises(UserError, match=r"train.csv, line 1: .*; no line of this file can be used"):
        read(root)


def test_a_line_with_more_fields_than_the_header_is_left_out(root):
    texts = write_lists(root)
    plain = read(root)
    write_lists(root, train=f"name,label\n{texts['train']}1001_IEO_ANG_XX,angry, very,ANG\n")
    clips = read(root)
    assert clips.clips == plain.clips
    assert clips.left_out == (LeftOut("train.csv, line 110", "4 fields, the header has 2; quote a value with a comma"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label", "train.csv: no clips below the header; add one line a clip"),
        ("\n", "train.csv: the file is empty; it needs a line a clip"),
    ],
)
def test_a_list_without_clips(root, text, message):
    write_lists(root, train=text)
    with pytest.raises(UserError, match=message):
        read(root)


def test_faults_of_the_folder(root, tmp_path):
    with pytest.raises(UserError, match=r"no folder AudioWAV with .wav files; --root names CREMA-D's own folder"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"lists: no such folder"):
        read(root, splits=str(tmp_path / "lists"))
    (tmp_path / "lists").mkdir()
    with pytest.raises(UserError, match=r"train.csv: no such file; CREMA-D's splits are train.csv and test.csv"):
        read(root, splits=str(tmp_path / "lists"))
    write_lists(root)
    (root / "test.csv").unlink()
    with pytest.raises(UserError, match=r"test.csv: no such file"):
        read(root)


@needs_official
def test_the_official_lists(root):
    clips = read(root, splits=str(OFFICIAL / "cremad"))
    assert counts(clips) == {"train": 6698 - 745, "val": 745, "test": 744}
    assert clips.class_names == ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    assert clips.notes[-1] == "test has 91 actors that train has too: the result holds for known speakers"
    by_actors = read(root, splits=str(OFFICIAL / "cremad"), val="actors")
    assert len(actors(by_actors, "val")) == 10
    assert not actors(by_actors, "val") & actors(by_actors, "train")
    assert counts(by_actors)["train"] + counts(by_actors)["val"] == 6698
