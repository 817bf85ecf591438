"""Frames and spectrograms that circulate in place of media, in the layouts of published code."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imsave
from media import BLUE, RED, solid, tone, write_manifest, write_mp4, write_wav

from raygap.config import Prepare
from raygap.data.extracted import pictures_in
from raygap.data.media.files import BadClip
from raygap.data.media.spectrogram import read_spectrogram, spectrogram_shape
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store, store_key

SETTINGS = Prepare(frames=2, frame_size=8, n_mels=16, seconds=1.0)
SHAPE = spectrogram_shape(SETTINGS)
CLIPS = {
    f"{actor}_{sentence}_{emotion}_XX": emotion
    for actor in range(1001, 1007)
    for sentence in ("IEO", "TIE")
    for emotion in ("ANG", "NEU")
}


def write_frames(folder: Path, count: int = 3, name: str = "{:05d}.jpg", colours=(RED, BLUE)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        imsave(folder / name.format(i + 1), solid(colours[i * len(colours) // count], seconds=0.04)[0])


def write_lists(root: Path) -> None:
    lines = [f"{clip},{label}\n" for clip, label in CLIPS.items()]
    (root / "train.csv").write_text("".join(lines[4:]))
    (root / "test.csv").write_text("".join(lines[:4]))


def spectrogram(clip: str) -> np.ndarray:
    return np.random.default_rng(list(clip.encode())).normal(size=SHAPE).astype(np.float32)


def write_spectrogram(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array.T)  # as KineticSound's lie
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(array), path)
    else:
        path.write_bytes(pickle.dumps(array, protocol=2))


def write_ave_lists(root: Path, ids: list[str], times: str) -> None:
    rows = [f"{('Bark', 'Flute')[i % 2]}&{name}&good&{times}" for i, name in enumerate(ids)]
    for split, lines in (("train", rows[:-4]), ("val", rows[-4:-2]), ("test", rows[-2:])):
        (root / f"{split}Set.txt").write_text("\n".join(lines) + "\n")


def test_cremad_as_ogm_ge_extracts_it(tmp_path: Path) -> None:
    """The frames of every second, beside the sound as it was published."""
    for clip in CLIPS:
        write_frames(tmp_path / "Image-01-FPS" / clip)
        (tmp_path / "AudioWAV").mkdir(exist_ok=True)
        write_wav(tmp_path / "AudioWAV" / f"{clip}.wav", tone(440))
    write_lists(tmp_path)
    clips = read_clips("cremad", tmp_path)
    assert clips.notes[0].startswith("in place of media: folders of frames of 24 clips (such as in Image-01-FPS)")
    store = Store.open(prepare(clips, SETTINGS, tmp_path / "cache", workers=1))
    assert len(store.labels) == len(CLIPS)
    # Of three frames, red, red and blue, those at a quarter and at three quarters of the three seconds.
    assert np.abs(store.frames[0].mean((1, 2)) - (RED, BLUE)).max() < 12
    assert store.clips["seconds"].to_pylist()[0] == 3.0
    # Another picture is another store.
    before = store_key(clips, SETTINGS)
    imsave(clips.clips[0].video / "00002.jpg", solid(BLUE, seconds=0.04)[0])
    assert store_key(clips, SETTINGS) != before


@pytest.mark.parametrize("kind", [".pt", ".pkl", ".npy"])
def test_cremad_with_spectrograms(tmp_path: Path, kind: str) -> None:
    """As BalanceBenchmark's code takes it; the numbers are those of the files."""
    for clip in CLIPS:
        write_frames(tmp_path / "visual" / clip, 12, "frame_{}.jpg")
        write_spectrogram(tmp_path / "audio" / f"{clip}{kind}", spectrogram(clip))
    write_lists(tmp_path)
    clips = read_clips("cremad", tmp_path)
    settings = SETTINGS.model_copy(update={"sound_scaling": "audioset"})
    store = Store.open(prepare(clips, settings, tmp_path / "cache", workers=1))
    for row in (0, 7):
        assert np.array_equal(store.spectrograms[row], spectrogram(store.clip_ids[row]).astype(np.float16))
    # Published ones are scaled already by the constants of the recipe.
    assert (store.header["statistics"]["spectrogram_mean"], store.header["statistics"]["spectrogram_std"]) == (0, 1)
    # frame_10 comes behind frame_9.
    assert [file.stem for file in pictures_in(clips.clips[0].video)][8:] == [f"frame_{i}" for i in (9, 10, 11, 12)]
    # A quarter and three quarters of a folder that names no rate.
    assert np.abs(store.frames[0].mean((1, 2)) - (RED, BLUE)).max() < 12


def test_ave_cut_to_its_events_as_pmr_has_it(tmp_path: Path) -> None:
    ids = [f"abcdefgh-{i:02d}" for i in range(8)]
    for number, name in enumerate(ids):
        write_frames(tmp_path / "Image-01-FPS-SE" / name)
        write_frames(tmp_path / "Image-01-FPS" / name, 10)
        write_spectrogram(tmp_path / "Audio-1004-SE" / f"{name}.pkl", spectrogram(name))
        if number == 7:
            write_wav(tmp_path / f"{name}.wav", tone(440))  # whole, and passed over
    write_ave_lists(tmp_path, ids, "2&5")
    clips = read_clips("ave", tmp_path)
    assert {clip.video.parent.name for clip in clips.clips} == {"Image-01-FPS-SE"}
    assert {clip.audio.suffix for clip in clips.clips} == {".pkl"}
    assert {(clip.start, clip.end) for clip in clips.clips} == {(None, None)}
    assert len(Store.open(prepare(clips, SETTINGS, tmp_path / "cache", workers=1)).labels) == 8


def test_frames_of_whole_clips_are_taken_from_the_event(tmp_path: Path) -> None:
    """The frames of a folder that names its rate are as well placed in time as those of a film."""
    whole = (RED, RED, RED, RED, RED, BLUE, BLUE, BLUE, RED, RED)
    ids = [f"abcdefgh-{i:02d}" for i in range(6)]
    (tmp_path / "wav").mkdir()
    for name in ids:
        write_frames(tmp_path / "Image-01-FPS" / name, 10, colours=whole)
        write_wav(tmp_path / "wav" / f"{name}.wav", tone(440, seconds=10.0))
    write_ave_lists(tmp_path, ids, "5&8")
    clips = read_clips("ave", tmp_path)
    assert {(clip.start, clip.end) for clip in clips.clips} == {(5.0, 8.0)}
    store = Store.open(prepare(clips, SETTINGS, tmp_path / "cache", workers=1))
    assert np.abs(store.frames[:].mean((2, 3)) - BLUE).max() < 12
    assert set(store.clips["seconds"].to_pylist()) == {3.0}


def test_kinetic_sound_as_ogm_ge_extracts_it(tmp_path: Path) -> None:
    rows = {split: [f"{split[:2]}-abcde{i:02d}z_000010_000020" for i in range(8)] for split in ("train", "test")}
    for split, folder in (("train", "train-frames-1fps/train"), ("test", "val-frames-1fps/test")):
        for name in rows[split][: 8 if split == "test" else 7]:
            write_frames(tmp_path / folder / name, 3, "frame_{:05d}.jpg")
            write_spectrogram(tmp_path / f"{split}_spec" / f"{name}.npy", spectrogram(name))
        lines = [f"{name},10,{i % 2}" for i, name in enumerate(rows[split])]
        (tmp_path / f"my_{split}.txt").write_text("\n".join(lines))
    clips = read_clips("kinetic_sound", tmp_path)
    assert any(note.startswith("listed videos without a file, left out: 1 of ") for note in clips.notes)
    store = Store.open(prepare(clips, SETTINGS, tmp_path / "cache", workers=1))
    assert len(store.labels) == 15
    name = store.clip_ids[0]
    assert np.array_equal(store.spectrograms[0], spectrogram(name).astype(np.float16))


class Evil:
    def __reduce__(self):  # what a pickle may do to who opens it
        return Path.touch, (Path("opened"),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pkl", Evil(), "no array alone: it names .*; convert it: numpy.save"),
        ("b.pkl", {"spectrogram": np.zeros(SHAPE)}, "no array, but dict"),
        ("c.pkl", np.zeros((3, 4)), "spectrogram of 3 x 4, and prepare.* makes 16 x 32: set prepare.recipe, or"),
        ("d.pkl", np.full(SHAPE, np.nan), "not finite"),
        ("e.pkl", np.full(SHAPE, None), "not of numbers"),
        ("f.npy", b"", "no array alone"),
        ("g.pt", b"nothing of torch's", "no array alone"),
    ],
)
def test_what_is_no_spectrogram_is_refused_in_a_line(
    name: str, content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(BadClip, match=message) as refused:
        read_spectrogram(Path(name), SETTINGS)
    assert "\n" not in str(refused.value)
    assert not Path("opened").exists()


def test_a_manifest_may_name_them_and_still_pictures(tmp_path: Path) -> None:
    """A picture, a folder of frames and a film; a wav, a flac, the sound of a film, and a spectrogram."""
    imsave(tmp_path / "still.png", solid(BLUE, seconds=0.04)[0])
    write_frames(tmp_path / "frames")
    (tmp_path / "empty").mkdir()
    sound = np.concatenate([tone(440), np.zeros(16_000, np.float32), tone(1760)])
    soundfile.write(tmp_path / "a.flac", sound, 16_000)
    write_mp4(tmp_path / "b.mp4", None, sound)
    write_wav(tmp_path / "c.wav", sound)
    write_spectrogram(tmp_path / "d.npy", spectrogram("d"))
    still = {"video": "still.png", "label": "a", "start": "", "end": ""}
    rows = [
        still | {"audio": "a.flac", "split": "train", "start": 0.0, "end": 1.0},
        still | {"audio": "a.flac", "split": "val", "label": "b", "start": 2.0, "end": 3.0},
        still | {"audio": "b.mp4", "split": "train", "label": "b", "start": 2.0},
        still | {"audio": "c.wav", "split": "test", "end": 1.0},
        still | {"video": "frames", "audio": "d.npy", "split": "train"},
        still | {"video": "frames", "audio": "", "split": "train"},
        still | {"video": "empty", "audio": "c.wav", "split": "train"},
    ]
    write_manifest(tmp_path, rows)
    clips = read_clips("manifest", tmp_path)
    assert [one.reason for one in clips.left_out] == [
        "a folder of frames has no sound: name a file in the column audio: frames",
        "a folder without pictures (paths are relative to the manifest): video empty",
    ]
    store = Store.open(prepare(clips, SETTINGS, tmp_path / "cache", workers=1, max_quarantine=0.5))
    assert len(store.labels) == 5
    assert np.abs(store.frames[0].mean((1, 2)) - BLUE).max() < 12  # every frame is the picture
    loudest = store.spectrograms[:4].astype(np.float32).mean(2).argmax(1)
    assert loudest[0] == loudest[3]  # the first second, 440 Hz
    assert loudest[1] == loudest[2] > loudest[0]  # the last, 1,760 Hz
    assert store.clips["seconds"].to_pylist()[:4] == [1.0, 1.0, pytest.approx(1.0, abs=0.05), 1.0]
