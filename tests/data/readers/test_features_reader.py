from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygap.config import Prepare
from raygap.data.clips import ClipList, ReaderOptions
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.readers.ave import CLASSES
from raygap.data.readers.features import read_unlabelled
from raygap.data.store import Store
from raygap.errors import UserError

CLIPS = 12
LABELS = np.arange(CLIPS) % 2
SPLITS = np.array(["train", "train", "train", "train", "val", "test"] * 2)
DRAW = np.random.default_rng(0)
AUDIO = DRAW.normal(5, 2, (CLIPS, 6)).astype("f")
STEPS = [DRAW.normal(0, 1, (1 + row % 3, 4)).astype("f") for row in range(CLIPS)]
PADDED = np.zeros((CLIPS, 3, 4), "f")
for row, steps in enumerate(STEPS):
    PADDED[row, : len(steps)] = steps
VISUAL = DRAW.normal(0, 1, (CLIPS, 4)).astype("f")
COLUMNS = {"audio": AUDIO, "visual": VISUAL, "label": LABELS, "split": SPLITS}
LENGTHS = np.array([len(steps) for steps in STEPS])
SETTINGS = Prepare(input="features")


def npz(folder: Path, **changes: Any) -> Path:
    columns = COLUMNS | changes
    np.savez(folder / "clips.npz", **{name: value for name, value in columns.items() if value is not None})
    return folder / "clips.npz"


def read(path: Path) -> ClipList:
    return read_clips("features", path, ReaderOptions())


def as_npz(folder: Path) -> Path:
    return npz(folder, visual=PADDED, visual_length=LENGTHS, id=[f"c{row}" for row in range(CLIPS)])


def as_parquet(folder: Path) -> Path:
    columns = {"audio": list(AUDIO), "visual": [steps.tolist() for steps in STEPS], "label": LABELS, "split": SPLITS}
    pq.write_table(pa.table(columns | {"id": [f"c{row}" for row in range(CLIPS)]}), folder / "clips.parquet")
    return folder / "clips.parquet"


def as_h5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "clips.h5", "w") as file:
        for name, values in {"audio": AUDIO, "visual": PADDED, "visual_length": LENGTHS, "label": LABELS}.items():
            file[name] = values
        file["split"] = [split.encode() for split in SPLITS]
        file["id"] = [f"c{row}".encode() for row in range(CLIPS)]
    return folder / "clips.h5"


def as_folder(folder: Path) -> Path:
    lines = ["id,label,split"]
    for name in ("audio", "visual"):
        (folder / name).mkdir()
    for row in range(CLIPS):
        lines.append(f"c{row},{LABELS[row]},{SPLITS[row]}")
        np.save(folder / "audio" / f"c{row}.npy", AUDIO[row])
        np.save(folder / "visual" / f"c{row}.npy", STEPS[row])
    (folder / "clips.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("write", [as_npz, as_parquet, as_h5, as_folder])
def test_every_kind_of_file_holds_the_same(write: Any, tmp_path: Path) -> None:
    found = read(write(tmp_path))
    assert found.class_names == ("0", "1")
    assert [(clip.id, clip.label, clip.split) for clip in found.clips[:2]] == [
        ("c0", "0", "train"),
        ("c1", "1", "train"),
    ]
    np.testing.assert_array_equal(found.features.audio, AUDIO)
    np.testing.assert_array_equal(found.features.visual[..., :-1], PADDED)
    assert found.features.visual[..., -1].sum(1).tolist() == LENGTHS.tolist()


def test_a_store_of_features_is_standardised_over_the_training_steps(tmp_path: Path) -> None:
    store = Store.open(prepare(read(as_npz(tmp_path)), SETTINGS, tmp_path / "cache"))
    assert store.channels == {"audio": 6, "visual": 4}
    trained = SPLITS == "train"
    np.testing.assert_allclose(store.header["statistics"]["audio_mean"], AUDIO[trained].mean(0), rtol=1e-6)
    steps = np.concatenate([steps for steps, is_trained in zip(STEPS, trained, strict=True) if is_trained])
    np.testing.assert_allclose(store.header["statistics"]["visual_std"], steps.std(0), rtol=1e-6)
    other = npz(tmp_path, visual=PADDED + 1, visual_length=LENGTHS, id=[f"c{row}" for row in range(CLIPS)])
    assert prepare(read(other), SETTINGS, tmp_path / "cache") != store.path
    with pytest.raises(UserError, match=r"prepare.input = media: features has features; set prepare.input=features"):
        prepare(read(other), Prepare(), tmp_path / "cache")


def test_class_names_are_read_and_numbers_that_are_not_finite_leave_a_clip_out(tmp_path: Path) -> None:
    audio = AUDIO.copy()
    audio[3, 2] = np.nan
    found = read(npz(tmp_path, audio=audio, class_names=["dog", "cat"]))
    assert found.class_names == ("cat", "dog")
    assert found.clips[0].label == "dog"
    assert [(line.id, line.reason) for line in found.left_out] == [("03", "numbers that are not finite: audio")]
    assert len(found.clips) == len(found.features.audio) == CLIPS - 1
    with pytest.raises(UserError, match="1 of 12 clips cannot be used"):
        prepare(found, SETTINGS, tmp_path / "cache")
    ids, _, faults = read_unlabelled(npz(tmp_path, audio=audio, label=None, split=None))
    assert [name for name, fault in zip(ids, faults, strict=True) if fault] == ["03"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual": None}, "no visual among audio, label, split; features need audio, visual, label, split"),
        ({"audio": AUDIO[:7]}, "arrays of unequal length: 7 of audio, 12 of visual, 12 of label, 12 of split"),
        ({"audio": np.full((CLIPS, 3), "x")}, "audio: <U1, which are no numbers; save them as float32"),
        ({"audio": np.array([None] * CLIPS)}, "cannot be read (Object arrays cannot be loaded"),
        ({"audio": AUDIO[:, 0]}, "audio: shape (12,); expected (clips, numbers) or (clips, steps, numbers)"),
        ({"visual": PADDED, "visual_length": LENGTHS + 1}, "visual_length: expected a whole number a clip, of 3 steps"),
        ({"visual": PADDED, "visual_length": LENGTHS - 2}, "visual_length: expected a whole number a clip, of 3 steps"),
        ({"split": np.array(["train", "eval"] * 6)}, "split 'eval': unknown; name the splits train, val and test"),
        ({"split": np.array(["train", "val"] * 6)}, "no clips with split test"),
        ({"label": np.where(SPLITS == "test", 7, LABELS)}, "no clip of class '7' for training"),
        ({"label": np.where(LABELS, 1.0, np.nan)}, "label 0: missing; each clip needs one"),
        ({"label": np.eye(2)[LABELS]}, "label 0: [1.0, 0.0]; give one name or whole number a clip"),
        ({"class_names": ["dog", "cat", "owl"]}, "no clip of class 'owl'; leave it out of class_names"),
        ({"class_names": ["dog"]}, "label 1: not an index into class_names, of which there are 1"),
        ({"id": ["a"] * CLIPS}, "id 'a' of a clip is taken"),
    ],
)
def test_what_are_no_features_of_clips_is_refused_in_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(npz(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_aves_published_features_are_cut_to_their_events(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    count, background = 9, len(CLASSES)
    labels = np.zeros((count, 10, background + 1), "i8")
    labels[:, :, background] = 1
    for row in range(count - 1):  # the last one is background alone
        labels[row, 2 : 5 + row % 2, [row % 3, background]] = [[1], [0]]
    sounds, pictures = DRAW.normal(size=(count, 10, 128)), DRAW.normal(size=(count, 10, 7, 7, 4))
    for name, values in (("audio_feature", sounds), ("visual_feature", pictures), ("labels", labels)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["avadataset"] = values
    for split, order in (("train", [5, 0, 1, 8]), ("val", [2, 3]), ("test", [4, 6, 7])):
        with h5py.File(tmp_path / f"{split}_order.h5", "w") as file:
            file["order"] = np.array(order)
    found = read(tmp_path)
    assert [clip.id for clip in found.clips] == ["0005", "0000", "0001", "0002", "0003", "0004", "0006", "0007"]
    assert [clip.label for clip in found.clips[:3]] == [CLASSES[2], CLASSES[0], CLASSES[1]]
    assert found.features.audio[..., -1].sum(1).tolist()[:3] == [4, 3, 4]
    np.testing.assert_allclose(found.features.visual[0, :4, :-1], pictures[5, 2:6].mean((1, 2)), rtol=1e-5)
    (tmp_path / "labels.h5").unlink()
    with pytest.raises(UserError, match=r"labels.h5: no such file; AVE's features are"):
        read(tmp_path)
