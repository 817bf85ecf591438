"""Files of predictions from elsewhere: what they mean, and what is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from raygap.data.predictions import read_predictions
from raygap.errors import UserError

random = np.random.default_rng(0)
LABELS = random.integers(0, 3, 20)
AUDIO, VISUAL = random.normal(0, 2, (20, 3)), random.normal(0, 1, (20, 3))
WHOLE: dict[str, Any] = {
    "audio": AUDIO,
    "visual": VISUAL,
    "fused": AUDIO + VISUAL,
    "labels": LABELS,
    "ids": np.array([f"clip{i}" for i in range(20)]),
    "splits": np.array(["train"] * 10 + ["val"] * 10),
    "class_names": np.array(["cat", "dog", "owl"]),
    "features_audio": random.normal(size=(20, 5)),
    "features_visual": random.normal(size=(20, 4)),
    "weight_audio": random.normal(size=(3, 5)),
    "weight_visual": random.normal(size=(3, 4)),
}


def npz(folder: Path, **changes: Any) -> Path:
    arrays = {name: array for name, array in (WHOLE | changes).items() if array is not None}
    np.savez(folder / "answers.npz", **arrays)
    return folder / "answers.npz"


def table(folder: Path, kind: str, endings: tuple[str, ...] = ("0", "1", "2"), **changes: Any) -> Path:
    columns = {f"{name}_{e}": WHOLE[name][:, i] for name in ("audio", "visual", "fused") for i, e in enumerate(endings)}
    columns |= {"label": LABELS, "id": WHOLE["ids"], "split": WHOLE["splits"]} | changes
    content = pa.table({name: column for name, column in columns.items() if column is not None})
    path = folder / f"answers.{kind}"
    pq.write_table(content, path) if kind == "parquet" else pa.csv.write_csv(content, path)
    return path


def test_an_npz_file_is_what_was_saved(tmp_path: Path) -> None:
    found = read_predictions(npz(tmp_path))
    for name in ("audio", "visual", "fused"):
        np.testing.assert_array_equal(found.logits[name], WHOLE[name])
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.class_names == ("cat", "dog", "owl")
    assert found.ids[3] == "clip3"
    np.testing.assert_allclose(found.parts["audio"], WHOLE["features_audio"] @ WHOLE["weight_audio"].T)
    val = found.of(found.splits == "val")
    assert len(val) == 10
    np.testing.assert_array_equal(val.logits["audio"], AUDIO[10:])
    np.testing.assert_array_equal(val.features["visual"], WHOLE["features_visual"][10:])


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_tables_hold_the_same(kind: str, tmp_path: Path) -> None:
    numbered = read_predictions(table(tmp_path, kind))
    named = read_predictions(
        table(tmp_path, kind, ("cat", "dog", "owl"), label=WHOLE["class_names"][LABELS], id=None, split=None)
    )
    for found in (numbered, named):
        np.testing.assert_allclose(found.logits["fused"], AUDIO + VISUAL)
        np.testing.assert_array_equal(found.labels, LABELS)
    assert numbered.class_names == ("0", "1", "2")
    assert named.class_names == ("cat", "dog", "owl")
    assert numbered.splits[-1] == "val"
    assert named.splits is None
    assert named.ids[3] == "3"


def test_logits_and_probabilities_are_told_apart_and_said(tmp_path: Path) -> None:
    found = read_predictions(npz(tmp_path, audio=softmax(AUDIO, axis=1).astype(np.float32)))
    assert "audio: probabilities (all in [0, 1], rows sum to 1)." in found.notes
    assert "visual: logits (values outside [0, 1])." in found.notes
    np.testing.assert_allclose(softmax(found.logits["audio"], axis=1), softmax(AUDIO, axis=1), atol=1e-6)
    certain = np.eye(3)[LABELS]
    assert np.isfinite(read_predictions(npz(tmp_path, audio=certain)).logits["audio"]).all()
    small = np.abs(AUDIO) / 10  # could be either: refused, until it is said
    with pytest.raises(UserError, match=r"audio lies in \[0, 1\] but row .* say --values logits"):
        read_predictions(npz(tmp_path, audio=small))
    found = read_predictions(npz(tmp_path, audio=small), "logits")
    assert "audio: logits (as --values says)." in found.notes
    np.testing.assert_array_equal(found.logits["audio"], small)


def test_without_fused_logits_their_sum_stands_in_and_is_said(tmp_path: Path) -> None:
    found = read_predictions(npz(tmp_path, fused=None))
    np.testing.assert_allclose(found.logits["fused"], AUDIO + VISUAL)
    assert any("late fusion" in note for note in found.notes)


def changed(array: np.ndarray, place: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio": None}, "no array audio among"),
        ({"audoi": AUDIO}, "unknown array audoi"),
        ({"audio": AUDIO[:, 0]}, r"audio has shape \(20,\); expected \(clips, classes\)"),
        ({"audio": AUDIO[:, :1]}, "two classes or more"),
        ({"visual": VISUAL[:19]}, r"visual has shape \(19, 3\); expected \(20, 3\)"),
        ({"visual": VISUAL[:, :2]}, r"visual has shape \(20, 2\)"),
        ({"labels": LABELS[:, None]}, r"labels has shape \(20, 1\); expected \(20,\)"),
        ({"labels": changed(LABELS, 4, 3)}, "label 3 in row 4 is out of range; 3 classes have 0 to 2"),
        ({"labels": changed(LABELS, 0, -1)}, "label -1 in row 0"),
        ({"labels": LABELS + 0.5}, "labels must be whole numbers"),
        ({"labels": LABELS.astype(str)}, "labels must be whole numbers"),
        ({"audio": changed(AUDIO, (2, 1), np.nan)}, r"audio has 1 values that are NaN or infinite.*\[2, 1\]"),
        ({"fused": changed(AUDIO, (2, 1), -np.inf)}, "fused has 1 values that are NaN or infinite"),
        ({"features_audio": changed(WHOLE["features_audio"], 0, np.inf)}, "features_audio has 5 values"),
        ({"features_audio": WHOLE["features_audio"][:3]}, r"features_audio has shape \(3, 5\); expected \(20, f"),
        ({"weight_visual": WHOLE["weight_visual"].T}, r"weight_visual has shape \(4, 3\); expected \(3, features\)"),
        ({"weight_visual": WHOLE["weight_visual"][:, :3]}, "features_visual has 4 features and weight_visual 3"),
        ({"audio": AUDIO.astype(str)}, "audio is of type <U"),
        ({"ids": np.array([None] * 20)}, "ids holds Python objects; save plain arrays"),
        ({"ids": np.array(["a"] * 20)}, "id 'a' comes 20 times"),
        ({"splits": np.array(["dev"] * 20)}, "split 'dev' in row 0; use train, val, test"),
        ({"class_names": np.array(["cat"])}, r"class_names has shape \(1,\)"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_predictions(npz(tmp_path, **changes))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "answers.npz"))


def test_probabilities_that_are_said_to_be_some_must_be_some(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fused holds no probabilities"):
        read_predictions(npz(tmp_path), "probabilities")
    p = softmax(AUDIO, axis=1)
    halves = npz(tmp_path, audio=p, visual=p / 2, fused=None)
    with pytest.raises(UserError, match=r"visual holds no probabilities \(row 0 sums to 0.5\)"):
        read_predictions(halves, "probabilities")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: table(folder, "csv", label=None), "no column label"),
        (lambda folder: table(folder, "csv", audio_1=None), "no column audio_1;"),
        (lambda folder: table(folder, "csv", visual_2=None), "no column visual_2"),
        (lambda folder: table(folder, "csv", visual_3=LABELS), "no column fused_3"),
        (lambda folder: table(folder, "parquet", audio_1=["x"] * 20), "audio_1 holds text, such as 'x'"),
        (lambda folder: table(folder, "parquet", audio_1=[None] * 20), "audio_1 is empty in row 0"),
        (lambda folder: table(folder, "csv", ("a", "b", "c"), visual_d=LABELS), "column visual_d has no audio_d"),
        (lambda folder: table(folder, "csv", label=["cat"] * 20), "labels must be whole numbers"),
        (lambda folder: table(folder, "csv", ("a", "b", "c"), label=["d"] * 20), "label 'd' in row 0 is no class"),
    ],
)
def test_bad_tables_are_refused_in_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_predictions(make(tmp_path))


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "a.csv", "a.pkl", "gone.npz"])
def test_files_of_another_kind_are_refused(name: str, tmp_path: Path) -> None:
    if name != "gone.npz":
        (tmp_path / name).write_bytes(b"\x80\x04not what it says")
    with pytest.raises(UserError, match=name):
        read_predictions(tmp_path / name)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "evil.npz", audio=np.array([Evil()], dtype=object))
    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    (tmp_path / "evil.npy").rename(tmp_path / "bare.npz")
    for name in ("evil.npz", "bare.npz"):
        with pytest.raises(UserError, match=name):
            read_predictions(tmp_path / name)
    assert not (tmp_path / "ran").exists()


ODD = {
    "numbers": ("1", "2", "10"),
    "padded": ("01", "02", "08"),
    "from one": ("1", "2", "3"),
    "truth": ("false", "true", "maybe"),
    "nothing": ("NA", "null", "nan"),
    "powers": ("1e3", "2e3", "inf"),
}


@pytest.mark.parametrize("names", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_class_names_are_text_whatever_they_look_like(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    ids = np.array([f"{i:03}" for i in range(20)])
    found = read_predictions(table(tmp_path, kind, names, label=np.array(names)[LABELS], id=ids))
    assert found.class_names == names
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.ids, ids)
    last = read_predictions(table(tmp_path, kind, names, label=[names[2]] * 20))
    np.testing.assert_array_equal(last.labels, [2] * 20)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("01", "02", "08"), [1, 2, 8]),
        (("1", "2", "10"), [1.0, 2.0, 10.0]),
        (("1e3", "2e3", "x"), ["1000.0", "2000.0", "x"]),
        (("false", "true", "maybe"), ["False", "True", "maybe"]),
    ],
)
def test_labels_that_a_program_took_for_numbers_are_still_those_classes(
    names: tuple[str, ...], labels: list, tmp_path: Path
) -> None:
    found = read_predictions(table(tmp_path, "parquet", names, label=np.array(labels)[LABELS]))
    np.testing.assert_array_equal(found.labels, LABELS)


def test_an_index_is_no_label_where_names_are_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"label '0' in row \d+ is no class; the columns name 1, 2, 10"):
        read_predictions(table(tmp_path, "csv", ("1", "2", "10"), label=LABELS))
    indices = read_predictions(table(tmp_path, "csv", ("a", "b", "c"), label=LABELS))
    np.testing.assert_array_equal(indices.labels, LABELS)
