"""The published layouts, with real media in them, from the folder to the store, the page and a sweep."""

import importlib

import numpy as np
import pytest
from media import BLUE, GREEN, RED, solid, tone, truncate, write_flv, write_mp4, write_wav

from raygap.config import Prepare
from raygap.data.clips import SPLITS, ReaderOptions
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.search.plan import read_plan

SETTINGS = Prepare(frames=2, frame_size=8, seconds=1)
SMALL = [
    "prepare.frames=2",
    "prepare.frame_size=8",
    "model.encoder=small_cnn",
    "model.width=4",
    "compute.precision=fp32",
]
SMALL += ["purify.epochs=0", "optimizer.batch_size=8"]


def command(name):
    """The function behind launch/<name>.py."""
    return importlib.import_module(f"raygap.commands.{name}").main


def store_of(dataset, root, cache, *, max_quarantine=0.0, **options):
    return Store.open(
        prepare(read_clips(dataset, root, ReaderOptions(**options)), SETTINGS, cache, max_quarantine=max_quarantine)
    )


def assert_left_out(store, expected):
    """These clips are quarantined, and no others; `expected` holds how each one's reason begins."""
    reasons = {clip["id"]: clip["reason"] for clip in store.header["quarantined"]}
    assert {name: reason[: len(expected.get(name, ""))] for name, reason in reasons.items()} == expected


def colour(store, clip):
    """Mean colour of a clip's frames, (T, 3)."""
    return store.frames[store.clip_ids.index(clip)].mean(axis=(1, 2))


@pytest.fixture(scope="module")
def cremad(tmp_path_factory):
    """Ten actors, angry (red, low) and sad (blue, high): 20 clips; without split files."""
    root = tmp_path_factory.mktemp("CREMA-D")
    (root / "AudioWAV").mkdir()
    (root / "VideoFlash").mkdir()
    for actor in range(1001, 1011):
        for emotion, shade, frequency in (("ANG", RED, 300), ("SAD", BLUE, 2000)):
            name = f"{actor}_DFA_{emotion}_XX"
            write_flv(root / "VideoFlash" / f"{name}.flv", solid(shade, seconds=0.6), tone(50, seconds=0.6))
            write_wav(root / "AudioWAV" / f"{name}.wav", tone(frequency, seconds=0.6))
    return root


def test_cremad(cremad, tmp_path):
    store = store_of("cremad", cremad, tmp_path)
    assert store.class_names == ("SAD", "ANG")
    assert store.header["counts"] == {"train": 14, "val": 2, "test": 4}
    assert "whole actors are held out for test" in store.header["notes"][0]
    for name, label, spectrogram in zip(store.clip_ids, store.labels, store.spectrograms, strict=True):
        angry = "ANG" in name
        assert store.class_names[label] == ("ANG" if angry else "SAD")
        assert np.abs(colour(store, name) - (RED if angry else BLUE)).max() < 30
        # The sound is that of the wav file, not the 50 Hz of the video file.
        assert (spectrogram[:, 2:15].mean(axis=1).argmax() < 30) == angry
        assert spectrogram[:, 2:15].mean(axis=1).argmax() > 5
    other = store_of("cremad", cremad, tmp_path, val="stratified")
    assert other.path != store.path


def test_cremad_with_bad_files(cremad, tmp_path):
    root = tmp_path / "CREMA-D"
    for folder in ("AudioWAV", "VideoFlash"):
        (root / folder).mkdir(parents=True)
        for file in (cremad / folder).iterdir():
            (root / folder / file.name).hardlink_to(file)

    def replace(kind, number, content=None):
        path = root / ("VideoFlash" if kind == "flv" else "AudioWAV") / f"{number}_DFA_ANG_XX.{kind}"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        return path

    replace("wav", 1001)
    replace("wav", 1002, b"")
    write_wav(replace("wav", 1003), 0 * tone(440))
    replace("flv", 1004, b"FLV\x01")
    write_wav(replace("wav", 1005), np.stack([tone(300, rate=44_100)] * 2, axis=1), rate=44_100)
    write_wav(replace("wav", 1006), tone(300, seconds=0.1))
    clips = [f"{actor}_DFA_{emotion}_XX,{emotion}\n" for actor in range(1001, 1011) for emotion in ("ANG", "SAD")]
    (root / "train.csv").write_text("".join(clips[:18]))
    (root / "test.csv").write_text("".join(clips[18:]))
    store = store_of("cremad", root, tmp_path / "cache", max_quarantine=0.3)
    bad = {
        1001: "no such file: 1001_DFA_ANG_XX.wav",
        1002: "unreadable: ",
        1003: "silent",
        1004: "unreadable: ",
        1006: "too short: 0.10 s of sound",
    }
    assert_left_out(store, {f"{actor}_DFA_ANG_XX": reason for actor, reason in bad.items()})
    with pytest.raises(UserError, match=r"5 of 20 clips cannot be used, .*; mend or remove them, or raise"):
        store_of("cremad", root, tmp_path / "cache", max_quarantine=0.1)


def write_ave_lists(root, *lists):
    for split, lines in zip(SPLITS, lists, strict=True):
        (root / f"{split}Set.txt").write_text("".join(f"{line}\n" for line in lines))


def test_ave(tmp_path):
    videos = tmp_path / "AVE"
    videos.mkdir()
    long = {"seconds": 3.0}
    write_mp4(videos / "event_____1.mp4", solid(RED, GREEN, BLUE, **long), tone(200, 600, 3000, **long))
    write_mp4(videos / "event_____2.mp4", solid(RED, GREEN, BLUE, **long), tone(200, 600, 3000, **long))
    stereo = np.stack([tone(600, rate=44_100, **long)] * 2, axis=1)
    write_mp4(videos / "stereo____1.mp4", solid(GREEN, **long), stereo, rate=44_100)
    # Ten frames in the first second, two in the next, then one: red, blue, blue.
    times = [0.1 * i for i in range(10)] + [1.0, 1.5, 2.0, 2.9]
    uneven = np.concatenate([solid(RED)[:10], solid(BLUE)[:4]])
    write_mp4(videos / "uneven____1.mp4", uneven, tone(600, **long), times=times)
    (videos / "empty_____1.mp4").write_bytes(b"")
    truncate(write_mp4(videos / "truncated_1.mp4", solid(RED, **long), tone(440, **long)), 0.7)
    write_mp4(videos / "mute______1.mp4", solid(RED, **long), None)
    write_mp4(videos / "blind_____1.mp4", None, tone(440, **long))
    write_mp4(videos / "blink_____1.mp4", solid(RED)[:3], tone(440, seconds=0.1))
    bad = [f"Bus&{name}&good&0&3" for name in ("empty_____1", "truncated_1", "mute______1", "blind_____1")]
    bad += ["Bus&blink_____1&good&0&1", "Bus&missing___1&good&0&3", "Bus&event_____2&good&8&9"]
    bad += ["Buss&event_____1&good&0&1", "Bus&../../../etc&good&0&1"]
    train = ["Bus&event_____1&good&1&2", "Violin, fiddle&stereo____1&good&0&3", *bad, "Cat&uneven____1&good&0&3"]
    write_ave_lists(tmp_path, train, ["Bus&val_______1&good&0&3"], ["Cat&test______1&good&2&3"])
    for name in ("val_______1", "test______1"):
        write_mp4(videos / f"{name}.mp4", solid(RED, GREEN, BLUE, **long), tone(200, 600, 3000, **long))
    store = store_of("ave", tmp_path, tmp_path / "cache", max_quarantine=0.65)
    assert store.class_names == ("Violin, fiddle", "Bus", "Cat")
    assert np.abs(colour(store, "event_____1") - GREEN).max() < 30
    assert np.abs(colour(store, "test______1") - BLUE).max() < 30
    assert np.abs(colour(store, "uneven____1") - [RED, BLUE]).max() < 40
    bands = store.spectrograms[:, :, 5:25].mean(axis=2).argmax(axis=1)
    assert bands[store.clip_ids.index("event_____1")] == bands[store.clip_ids.index("stereo____1")]
    assert bands[store.clip_ids.index("test______1")] > bands[store.clip_ids.index("event_____1")]
    seconds = dict(zip(store.clip_ids, store.clips["seconds"].to_pylist(), strict=True))
    assert seconds["event_____1"] == pytest.approx(1, abs=0.05)
    assert seconds["stereo____1"] == pytest.approx(3, abs=0.1)
    assert_left_out(
        store,
        {
            "empty_____1": "unreadable: ",
            "truncated_1": "unreadable: ",
            "mute______1": "no audio stream",
            "blind_____1": "no video stream",
            "blink_____1": "too short: 0.10 s of sound",
            "missing___1": "no such file: missing___1.mp4",
            "event_____2": "too short: ",
            "trainSet.txt, line 10": "unknown class: 'Buss' (did you mean 'Bus'?)",
            "trainSet.txt, line 11": "no YouTube id (11 letters, digits, - and _): '../../../etc'",
        },
    )


def test_an_event_of_no_length(tmp_path):
    (tmp_path / "AVE").mkdir()
    for i in range(6):
        write_mp4(tmp_path / "AVE" / f"clip______{i}.mp4", solid(RED), tone(440))
    write_ave_lists(
        tmp_path,
        ["Bus&clip______0&good&0&1", "Cat&clip______1&good&0&1", "Cat&clip______2&good&1&1"],
        ["Bus&clip______3&good&0&1"],
        ["Cat&clip______4&good&0&1", "Bus&clip______5&good&0&1"],
    )
    store = store_of("ave", tmp_path, tmp_path / "cache", max_quarantine=0.2)
    assert_left_out(store, {"clip______2": "ends at 1 s, not after its start at 1 s"})


def test_kinetic_sound(tmp_path):
    lines = {"train": [], "test": []}
    for i in range(12):
        name, split = f"youtube__{i:02d}_{i:06d}_{i + 10:06d}", "train" if i < 8 else "test"
        lines[split].append(f"{name},10,{3 * (i % 2)}\r\n")
        if i != 4:
            write_mp4(tmp_path / f"{name}.mp4", solid((RED, BLUE)[i % 2]), tone(440))
    for split, own in lines.items():
        (tmp_path / f"my_{split}.txt").write_bytes("".join(own).encode())
    store = store_of("kinetic_sound", tmp_path, tmp_path / "cache")
    assert store.class_names == ("blowing_nose", "chopping_wood")
    assert len(store.labels) == 11
    assert "missing by class: blowing_nose 17%" in store.header["notes"]
    for name, label in zip(store.clip_ids, store.labels, strict=True):
        assert np.abs(colour(store, name) - (RED, BLUE)[label]).max() < 30


def write_clips(folder, names, suffix="mp4"):
    """Short clips, of two kinds by turns."""
    folder.mkdir()
    for i, name in enumerate(names):
        write_mp4(folder / f"{name}.{suffix}", solid((RED, BLUE)[i % 2]), tone((300, 2000)[i % 2]))


def ave_folder(folder):
    """With lists elsewhere, of which one line is faulty and one clip stands in train and in test."""
    names = [f"video-___{i:02d}" for i in range(14)]
    write_clips(folder / "AVE", names)
    lines = [f"{('Bus', 'Cat')[i % 2]}&{name}&good&0&1" for i, name in enumerate(names)]
    (folder / "lists").mkdir()
    write_ave_lists(folder / "lists", [*lines[:8], lines[13], "Dog&x&good&0&10"], lines[8:10], lines[10:])
    return {"splits": folder / "lists", "keep_overlap": True, "max_quarantine": 0.1}


def kinetic_sound_folder(folder):
    """With lists beside the videos; one video is missing."""
    names = [f"youtube__{i:02d}_{i:06d}_{i + 10:06d}" for i in range(14)]
    write_clips(folder / "videos", names, "MP4")
    rows = [f"{name},10,{3 * (i % 2)}\r\n" for i, name in enumerate([*names, "youtube__99_000000_000010"])]
    (folder / "my_train.txt").write_text("".join(rows[:10]))
    (folder / "my_test.txt").write_text("".join(rows[10:]))
    return {}


def cremad_folder(folder):
    """Without lists."""
    names = [f"{actor}_DFA_{emotion}_XX" for actor in range(1001, 1011) for emotion in ("ANG", "SAD")]
    write_clips(folder / "VideoFlash", names, "mp4")
    for file in (folder / "VideoFlash").iterdir():
        file.rename(file.with_suffix(".flv"))
    (folder / "AudioWAV").mkdir()
    for i, name in enumerate(names):
        write_wav(folder / "AudioWAV" / f"{name}.wav", tone((300, 2000)[i % 2], seconds=0.6))
    return {"val": "stratified"}


@pytest.mark.parametrize(
    ("dataset", "write", "said", "counts"),
    [
        ("cremad", cremad_folder, "cremad: no train.csv and test.csv in", "14 train, 2 val, 4 test"),
        (
            "ave",
            ave_folder,
            "ave: faulty lines left out: 1; the first: trainSet.txt, line 10",
            "9 train, 2 val, 4 test",
        ),
        ("kinetic_sound", kinetic_sound_folder, "kinetic_sound: missing by class", "8 train, 2 val, 4 test"),
    ],
)
def test_from_the_folder_to_the_store_and_back(dataset, write, said, counts, tmp_path, capsys, caplog):
    root = tmp_path / "root"
    root.mkdir()
    options = write(root)
    settings = [*SMALL[:2], "prepare.seconds=1"]
    source = {"dataset": dataset, "cache": tmp_path / "cache"}
    command("prepare")(**source, **options, root=root, assignments=settings, inspect=True)
    printed = capsys.readouterr().out
    assert said in caplog.text
    assert f"clips: {counts}; 2 classes" in printed
    assert "Clips by class and split" in printed
    (store,) = (tmp_path / "cache").glob(f"{dataset}-*")
    # Told neither the folder nor how it is read, it finds the store.
    quarantine = {name: value for name, value in options.items() if name == "max_quarantine"}
    command("prepare")(**source, **quarantine, assignments=settings)
    assert f"reading {dataset} from {root}, as prepared last" in capsys.readouterr().out
    assert list((tmp_path / "cache").glob(f"{dataset}-*")) == [store]


def test_from_the_folder_to_a_sweep(tmp_path, ray_cluster, capsys):
    root, out = tmp_path / "root", tmp_path / "run"
    root.mkdir()
    options = ave_folder(root)
    small = [*SMALL, "prepare.seconds=1"]
    source = {"dataset": "ave", "cache": tmp_path / "cache"}
    command("prepare")(**source, **options, root=root, assignments=[*small[:2], small[-1]])
    capsys.readouterr()
    (store,) = (tmp_path / "cache").glob("ave-*")
    # The sweep is told neither the folder nor how it is read.
    plan = {"assignments": [*small, "warmup.epochs=1"], "trials": 1, "epochs": 2, "test_seeds": 0, "concurrency": 1}
    command("sweep")(**source, **plan, max_quarantine=options.pop("max_quarantine", None), out=out)
    assert f"reading ave from {root}, as prepared last" in capsys.readouterr().out
    assert (out / "best.yaml").exists()
    # The same folder, read the same way: the sweep has found the store, and going on with it will too.
    assert list((tmp_path / "cache").glob("ave-*")) == [store]
    options = {name: str(value) if name == "splits" else value for name, value in options.items()}
    assert (read_plan(out).root, read_plan(out).reader) == (str(root), ReaderOptions(**options))
    report = (out / "report.html").read_text()
    assert all(f"--{name.replace('_', '-')}" in report for name in options)
