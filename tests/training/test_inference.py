"""A network trained on real media, and its answers to files: the store's own, one modality, bad ones."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from media import BLUE, CrashingPath, solid, tone, truncate, write_mp4, write_wav
from scipy.special import softmax
from stores import SMALL

from raygap.data.decoding import Media
from raygap.data.prepare import prepare
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.imbalance.correction import TemperatureWeights
from raygap.schema import from_mapping
from raygap.training import checkpoint
from raygap.training.evaluation import predict
from raygap.training.inference import (
    BATCH,
    Answer,
    Classifier,
    answers,
    fingerprint,
    read_correction,
    read_media,
    store_predictions,
    write_correction,
)
from raygap.training.run import load_network, train

FIELDS = SMALL | {"method": "unimodal_losses", "epochs": 4, "prepare.seconds": 0.5, "prepare.frames": 2}


@dataclasses.dataclass
class Trained:
    """A store made of real media, a network trained on it, and the clips."""

    store: Store
    best: Path
    media: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    config = from_mapping(FIELDS)
    store = Store.open(prepare(read_manifest(data_set), config.prepare, folder / "cache", workers=2))
    list(train(config, store, folder / "run"))
    return Trained(store, folder / "run" / "best.pt", data_set)


@pytest.fixture(scope="module")
def mixed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Media], list[Answer]]:
    """Every file of the store, one of each kind that lacks something, one that crashes the decoder, and enough for a
    second batch; and the answers to them."""
    folder = tmp_path_factory.mktemp("mixed")
    whole = trained.media / "low-train-1.mp4"
    write_mp4(folder / "mute.mp4", solid(BLUE), None)
    write_mp4(folder / "silent.mp4", solid(BLUE), 0 * tone(440))
    write_mp4(folder / "blind.mp4", None, tone(450))
    write_wav(folder / "sound.WAV", tone(450))
    truncate(Path(shutil.copy(whole, folder / "cut.mp4")), 0.3)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no media")
    listed = "video,audio,id\nmute.mp4,,muted\nmute.mp4,sound.WAV,pair\nmute.mp4,gone.wav,no sound file\n,sound.WAV,\n"
    (folder / "list.csv").write_text(listed)
    files = [trained.media / name for name in trained.store.clips["video"].to_pylist()]
    names = ("mute.mp4", "silent.mp4", "blind.mp4", "sound.WAV", "cut.mp4", "empty.mp4", "text.mp4", "gone.mp4")
    media = read_media([*files, *(folder / name for name in names), folder / "list.csv"])
    media.insert(len(files), Media("crash", CrashingPath(whole), None))
    media += [Media(str(i), whole, None) for i in range(BATCH)]
    return media, list(answers(Classifier.load(trained.best), media, workers=2))


def test_files_get_the_answers_that_evaluation_gives_the_store(trained: Trained, mixed) -> None:
    config, network = load_network(trained.best, 2)
    rows = np.arange(len(trained.store.labels))
    outputs = predict(network, trained.store, rows, config, torch.device("cpu"))
    for row, answer in enumerate(mixed[1][: len(rows)]):
        assert Path(answer.media.id).name == trained.store.clips["video"][row].as_py()
        assert answer.used == "audio+visual"
        for name in ("fused", "audio", "visual"):
            expected = softmax(outputs[name][row].double().numpy())
            np.testing.assert_allclose(answer.probabilities[name], expected, atol=1e-5)
    said = np.array([a.probabilities["fused"].argmax() for a in mixed[1][: len(rows)]])
    assert (said == trained.store.labels).mean() > 0.7  # red and low against blue and high


def of(mixed, name: str) -> Answer:
    """The first of that name."""
    return next(answer for answer in mixed[1] if Path(answer.media.id).name == name)


def test_with_one_modality_the_other_one_answers_and_says_so(mixed) -> None:
    pair, mute, sound = of(mixed, "pair"), of(mixed, "mute.mp4"), mixed[1][-1 - BATCH]
    assert (pair.used, mute.used, sound.used) == ("audio+visual", "visual", "audio")
    assert mute.reasons == {"audio": "no audio stream"}
    assert sound.reasons == {"visual": "no picture given"}
    # The read-outs of the two halves are those of the whole.
    for half, name in ((mute, "visual"), (sound, "audio")):
        np.testing.assert_allclose(half.probabilities[name], pair.probabilities[name], atol=1e-6)
        np.testing.assert_array_equal(half.probabilities["fused"], half.probabilities[name])
        assert set(half.probabilities) == {"fused", name}
    assert of(mixed, "silent.mp4").reasons == {"audio": "silent"}
    assert of(mixed, "blind.mp4").used == "audio"
    assert of(mixed, "sound.WAV").used == "audio"
    assert of(mixed, "no sound file").reasons == {"audio": "no such file: gone.wav"}


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "mla"},
        {"method": "mmcosine"},
        {"method": "audio_only"},
        {"method": "joint", "model.fusion": "gated", "model.readout": "heads"},
        {"method": "unimodal_losses", "model.fusion": "film", "model.readout": "heads"},
        {"method": "reconboost", "model.fusion": "sum", "warmup.epochs": 1, "purify.epochs": 0},
    ],
    ids=lambda fields: fields["method"],
)
def test_one_modality_is_enough_whatever_the_method(fields: dict, trained: Trained, mixed, tmp_path: Path) -> None:
    list(train(from_mapping(FIELDS | fields), trained.store, tmp_path))
    files = [of(mixed, name).media for name in ("pair", "mute.mp4", "sound.WAV")]
    pair, *halves = answers(Classifier.load(tmp_path / "best.pt"), files, workers=1)
    for half, name in zip(halves, ("visual", "audio"), strict=True):
        assert half.used == name
        np.testing.assert_allclose(half.probabilities[name], pair.probabilities[name], atol=1e-5)
        np.testing.assert_array_equal(half.probabilities["fused"], half.probabilities[name])


@pytest.mark.parametrize("name", ["cut.mp4", "empty.mp4", "text.mp4", "gone.mp4"])
def test_a_bad_file_costs_its_own_row(name: str, mixed) -> None:
    answer = of(mixed, name)
    assert answer.used == "none"
    assert answer.probabilities == {}
    assert set(answer.reasons) == {"audio", "visual"}


def test_a_decoder_that_crashes_costs_its_own_row_and_order_is_kept(mixed) -> None:
    media, found = mixed
    assert [answer.media for answer in found] == media
    assert of(mixed, "crash").used == "none"
    assert "crashed (SIGSEGV)" in of(mixed, "crash").reasons["audio"]
    assert all(answer.used == "audio+visual" for answer in found[-BATCH:])


def test_a_saved_correction_is_applied_and_belongs_to_its_classes(trained: Trained, mixed, tmp_path: Path) -> None:
    classifier = Classifier.load(trained.best)
    halved = TemperatureWeights({"audio": 2.0, "visual": 0.5}, {"fused": 0.5, "audio": 0.0, "visual": 0.0})
    write_correction(halved, classifier.class_names, "by hand", tmp_path / "c.json", classifier.fingerprint)
    correction, known = read_correction(tmp_path / "c.json", classifier)
    assert correction == halved
    assert known
    plain = mixed[1][-1]
    [corrected] = answers(classifier, [plain.media], workers=1, correction=correction)
    for name, power in {"fused": 0.5, "audio": 0.5, "visual": 2.0}.items():
        expected = plain.probabilities[name].astype(float) ** power
        np.testing.assert_allclose(corrected.probabilities[name], expected / expected.sum(), rtol=1e-4)
    with pytest.raises(UserError, match="fitted for other classes"):
        read_correction(tmp_path / "c.json", dataclasses.replace(classifier, class_names=("cat", "dog")))
    content = json.loads((tmp_path / "c.json").read_text())
    for damage in ("", "[]", json.dumps(content | {"temperatures": {}}), json.dumps(content | {"correction": "x"})):
        (tmp_path / "c.json").write_text(damage)
        with pytest.raises(UserError, match=r"c\.json: not a correction"):
            read_correction(tmp_path / "c.json", classifier)


def test_a_correction_belongs_to_the_network_it_was_fitted_to(trained: Trained, tmp_path: Path) -> None:
    file, other = tmp_path / "c.json", tmp_path / "other.pt"
    classifier = Classifier.load(trained.best)
    assert fingerprint(trained.best) == classifier.fingerprint
    halved = TemperatureWeights({"audio": 2.0, "visual": 0.5}, {"fused": 0.5, "audio": 0.0, "visual": 0.0})
    write_correction(halved, classifier.class_names, "val of mine", file, classifier.fingerprint)
    saved = checkpoint.load(trained.best)
    weights = next(tensor for tensor in saved["network"].values() if tensor.is_floating_point())
    weights.view(-1)[0] += 1e-6  # as another epoch or seed would
    checkpoint.save(saved, other)
    with pytest.raises(UserError, match=r"c\.json: fitted to another network than .* \(val of mine\); fit one to this"):
        read_correction(file, Classifier.load(other))
    write_correction(halved, classifier.class_names, "a table", file, None)
    assert read_correction(file, classifier) == (halved, False)
    content = json.loads(file.read_text())
    del content["network"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"c\.json: written by an older raygap, without the network"):
        read_correction(file, classifier)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.mp4\n", "neither a column video nor a column audio"),
        ("video,start\na.mp4,soon\n", "line 2: start 'soon' is not a time"),
        ("video,start,end\na.mp4,2,1\n", "line 2: end 1 is not after start 2"),
        ("video,audio,id\na.mp4,,x\n,,y\n", "line 3: neither video nor audio is given"),
        ("video,id\na, b.mp4,x\n", "line 2: 3 fields, the header has 2; quote a value with a comma"),
    ],
)
def test_bad_lists_are_refused_with_their_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_media([tmp_path / "list.csv"])


def test_files_that_hold_no_usable_network_are_refused(trained: Trained, tmp_path: Path) -> None:
    saved = checkpoint.load(trained.best)
    older = {name: value for name, value in saved.items() if name not in ("class_names", "statistics")}
    checkpoint.save(older, tmp_path / "older.pt")
    with pytest.raises(UserError, match="written by an older raygap, without class names"):
        Classifier.load(tmp_path / "older.pt")
    checkpoint.save({"something": 1}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"not the best\.pt of a training run"):
        Classifier.load(tmp_path / "other.pt")


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
def test_what_a_network_says_of_a_store_is_taken_apart(fusion: str, small_store: Store, tmp_path: Path) -> None:
    fields = SMALL | {"model.fusion": fusion, "model.readout": "heads" if fusion == "gated" else "split", "epochs": 3}
    list(train(from_mapping(fields), small_store, tmp_path))
    found = store_predictions(tmp_path / "best.pt", small_store, ["val", "test"])
    assert found.splits.tolist() == ["val"] * 12 + ["test"] * 12
    assert found.notes == ()
    config, network = load_network(tmp_path / "best.pt", 3)
    outputs = predict(network, small_store, small_store.rows("train"), config, torch.device("cpu"))
    means = [outputs[f"{name}_features"].mean(0, keepdim=True) for name in ("audio", "visual")]
    own = torch.from_numpy(found.features["audio"]).float()
    with torch.no_grad():
        expected = network.eval().read(own, means[1].expand_as(own)).fused
    np.testing.assert_allclose(found.alone["audio"], expected.numpy(), atol=1e-4)
    assert np.ptp(found.alone["none"], axis=0).max() == 0
    if fusion == "gated":
        assert not found.parts
        return
    for name in ("audio", "visual"):  # the split read-out is W z + b / 2, or W z + b
        bias = found.logits[name] - found.features[name] @ found.weights[name].T
        np.testing.assert_allclose(bias, np.broadcast_to(bias[0], bias.shape), atol=1e-4)
        np.testing.assert_allclose(found.parts[name], found.logits[name], atol=1e-5)


def test_other_data_are_scaled_as_the_training_data_were(small_store: Store, tmp_path: Path) -> None:
    list(train(from_mapping(SMALL), small_store, tmp_path))
    copy = Store.open(small_store.path)
    other = {"spectrogram_mean": 5.0, "spectrogram_std": 9.0, "frame_mean": [1.0] * 3, "frame_std": [2.0] * 3}
    copy.header = copy.header | {"key": "other", "statistics": other}
    there = store_predictions(tmp_path / "best.pt", copy, ["val"])
    here = store_predictions(tmp_path / "best.pt", small_store, ["val"])
    np.testing.assert_array_equal(there.logits["fused"], here.logits["fused"])
    assert "other data than the network was trained on" in there.notes[0]
    copy.header, copy.class_names = copy.header | {"key": "other"}, ("a", "b", "c")
    with pytest.raises(UserError, match="trained on other data, with other classes"):
        store_predictions(tmp_path / "best.pt", copy, ["val"])


def test_a_folder_is_refused_with_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "my clips"
    folder.mkdir()
    with pytest.raises(UserError, match="my clips: a folder; it holds no files itself; give media files"):
        read_media([folder])
    for name in ("a.mp4", "b.MP4", "notes.txt"):
        (folder / name).touch()
    with pytest.raises(
        UserError, match=r"it holds 2 \.mp4, 1 \.txt; give the media files in it, such as '.*/my clips'/"
    ):
        read_media([folder])
