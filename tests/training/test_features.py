"""Training on features that other networks have made, as on media."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raygap.config import FEATURES, Model, Prepare
from raygap.data.batches import batches
from raygap.data.clips import ReaderOptions
from raygap.data.features import padded
from raygap.data.prepare import prepare
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import METHODS, find_method
from raygap.models.encoders import make_encoder
from raygap.schema import from_mapping
from raygap.testing import SMALL, check_method
from raygap.training.augment import Augmentation
from raygap.training.check import check_trial
from raygap.training.inference import Classifier, answers, read_media, store_predictions
from raygap.training.run import train
from raygap.training.trainer import Trainer

CLIPS, CLASSES = 60, 3
FIELDS = SMALL | {"prepare.input": "features", "model.encoder": "mlp", "epochs": 3, "warmup.epochs": 1}


def write_features(folder: Path) -> Path:
    """Vectors of six numbers for the sound, one to three steps of five for the picture."""
    draw = np.random.default_rng(0)
    labels = np.arange(CLIPS) % CLASSES
    patterns = draw.normal(0, 2, (CLASSES, 6)), draw.normal(0, 2, (CLASSES, 5))
    audio = (patterns[0][labels] + draw.normal(size=(CLIPS, 6))).astype("f")
    visual = (patterns[1][labels][:, None] + draw.normal(size=(CLIPS, 3, 5))).astype("f")
    split = np.array(["train"] * 36 + ["val"] * 12 + ["test"] * 12)
    np.savez(folder / "clips.npz", audio=audio, visual=visual, visual_length=1 + np.arange(CLIPS) % 3, label=labels,
             split=split)  # fmt: skip
    return folder / "clips.npz"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def store(features: Path) -> Store:
    clip_list = read_clips("features", features, ReaderOptions())
    return Store.open(prepare(clip_list, Prepare(input="features"), features.parent / "cache"))


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_encoders_see_nothing_beyond_the_end_of_a_sequence(name: str, norm: str) -> None:
    encoder = make_encoder(Model(encoder=name, width=4, norm=norm), "audio", 5).eval()
    draw = np.random.default_rng(0)
    short, long = (draw.normal(size=(steps, 5)).astype("f") for steps in (2, 4))
    alone, beside = (encoder(torch.from_numpy(padded(clips))) for clips in ([short], [short, long]))
    assert alone.shape == (1, encoder.out_features)
    torch.testing.assert_close(alone[0], beside[0])
    vector = torch.from_numpy(short[:1])
    step = torch.from_numpy(padded([short[:1]]))
    torch.testing.assert_close(encoder(vector), encoder(step))
    assert encoder(torch.zeros(2, 3, 6)).isfinite().all()  # no step is there


def test_of_mixed_sequences_a_step_is_there_or_not(store: Store) -> None:
    fields = {"method": "unimodal_losses", "purify.epochs": 0, "augment.mixup": 1.0, "augment.mixup_partner": "own"}
    config = from_mapping(FIELDS | fields | {"model.dropout": 0.2, "model.visual.encoder": "transformer"})
    rows, augmentation = store.rows("train"), Augmentation(config, store, 0, 36)
    order, read = np.arange(36), {"augment": None, "seed": 0, "epoch": 0, "device": torch.device("cpu")}
    parts = {"batch_size": 16, "order": order, "partners": augmentation.partners}
    for batch in batches(store, rows, **parts, **read):
        lengths = [batch.visual[of, :, -1].sum(1) for of in (batch.own, batch.partners[:, 1])]
        there = augmentation(batch)[0].visual[..., -1]
        assert set(there.unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(there.sum(1), torch.maximum(*lengths))
    assert Trainer(config, store).train_epoch()["train_loss"] > 0


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mla"])  # whose features must be equally long
def test_every_method_trains_on_features(method: str, store: Store) -> None:
    fields = FIELDS | {"method": method, "purify.epochs": 0, "model.visual.encoder": "transformer", "model.width": 8}
    fields |= {"model.fusion": "sum"} if method == "reconboost" else {}
    fields |= {"model.readout": "heads"} if method == "cggm" else {}
    try:
        find_method(method).check(from_mapping(fields))
    except UserError:
        fields["warmup.epochs"] = 0
    trainer = Trainer(from_mapping(fields), store)
    assert trainer.network.channels == {"audio": 6, "visual": 5}
    rows = [trainer.train_epoch() for _ in range(3)]
    assert np.isfinite([row["train_loss"] for row in rows]).all()


def test_a_training_on_features_is_resumed_and_forked_to_the_last_bit(store: Store) -> None:
    check_method("gmm_scores", {**FIELDS, "model.encoder": "transformer", "epochs": 4}, store)


def test_a_network_answers_features_as_it_does_those_of_its_store(features: Path, store: Store, tmp_path: Path) -> None:
    config = from_mapping(FIELDS | {"method": "unimodal_losses", "epochs": 8})
    for _ in train(config, store, tmp_path / "run"):
        pass
    best = tmp_path / "run" / "best.pt"
    classifier = Classifier.load(best)
    found = list(answers(classifier, read_media([features], classifier), workers=1))
    assert {answer.used for answer in found} == {"audio+visual"}
    expected = store_predictions(best, store, ("test",))
    place = {answer.media.id: answer for answer in found}
    logits = torch.from_numpy(expected.logits["fused"]).softmax(1).numpy()
    fused = np.stack([place[clip].probabilities["fused"] for clip in expected.ids])
    np.testing.assert_allclose(fused, logits, rtol=1e-4, atol=1e-6)
    with np.load(features) as file:
        np.savez(tmp_path / "sound.npz", audio=file["audio"])
        np.savez(tmp_path / "other.npz", audio=file["audio"][:, :3])
    [alone, *_] = answers(classifier, read_media([tmp_path / "sound.npz"], classifier), workers=1)
    assert (alone.used, alone.reasons) == ("audio", {"visual": "no features"})
    np.testing.assert_allclose(alone.probabilities["audio"], place["00"].probabilities["audio"], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="audio of 3 numbers; the network takes 6"):
        read_media([tmp_path / "other.npz"], classifier)


def test_weights_and_encoders_for_features_are_tried_once_their_length_is_known(store: Store, tmp_path: Path) -> None:
    for numbers in (5, 6):
        encoder = make_encoder(Model(encoder="linear", width=4), "audio", numbers)
        torch.save(encoder.state_dict(), tmp_path / f"{numbers}.pt")
    fields = FIELDS | {"method": "joint", "model.audio.encoder": "linear"}
    right, wrong = (from_mapping(fields | {"model.audio.weights": str(tmp_path / f"{n}.pt")}) for n in (6, 5))
    for config in (right, wrong):
        check_trial(config)
    check_trial(right, store)
    with pytest.raises(UserError, match=r"weights of another network: layer.weight is \(16, 5\) there, and \(16, 6\)"):
        check_trial(wrong, store)
    own = from_mapping(fields | {"model.audio.encoder": "torch.nn:Linear"})
    check_trial(own)
    with pytest.raises(UserError, match=r"torch.nn:Linear: fails for 6 channels"):
        check_trial(own, store)


def test_a_network_for_features_takes_no_media(store: Store, small_store: Store, tmp_path: Path) -> None:
    for _ in train(from_mapping(FIELDS | {"method": "joint"}), store, tmp_path / "run"):
        pass
    other = Store.open(small_store.path)
    other.class_names = store.class_names
    with pytest.raises(UserError, match="takes 6 numbers of audio and 5 numbers of visual, but the data have media"):
        store_predictions(tmp_path / "run" / "best.pt", other, ("test",))
