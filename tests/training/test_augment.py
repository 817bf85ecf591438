import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stores import SMALL, write_store

from raygap.config import Prepare
from raygap.data.batches import Batch, batches, epoch_order
from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.testing import SETTINGS
from raygap.training.augment import Augmentation, dropped, masked
from raygap.training.trainer import Trainer

CPU = torch.device("cpu")


def some(store: Store, batch_size: int = 48) -> list[Batch]:
    """An epoch's batches, as they are read."""
    rows = store.rows("train")
    order = epoch_order(len(rows), 0, 0)
    read = {"augment": None, "seed": 0, "epoch": 0, "device": CPU}
    return list(batches(store, rows, batch_size=batch_size, order=order, **read))


def changed(store: Store, batch_size: int = 48, **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Sound and frames of all training clips, augmented, in the order of the epoch."""
    config = from_mapping(SMALL | {k.replace("__", "."): v for k, v in fields.items()})
    augmentation = Augmentation(config, store, 0, len(store.rows("train")))
    parts = [augmentation(batch)[0] for batch in some(store, batch_size)]
    return torch.cat([part.audio for part in parts]), torch.cat([part.visual for part in parts])


@pytest.mark.parametrize(
    "fields",
    [
        {"augment__gain": 6.0, "augment__noise": 0.5, "augment__time_mask": 0.5, "augment__frequency_mask": 0.3},
        {"augment__frames": "randaugment"},
        {"augment__frames": "trivialaugment"},
    ],
)
def test_what_happens_to_a_clip_does_not_depend_on_its_batch(fields: dict[str, Any], small_store: Store) -> None:
    [plain] = some(small_store)
    torch.rand(3)  # nobody else's draws matter
    at_once, in_parts = changed(small_store, **fields), changed(small_store, batch_size=7, **fields)
    assert not all(map(torch.equal, at_once, (plain.audio, plain.visual)))
    for one, other in zip(at_once, in_parts, strict=True):
        torch.testing.assert_close(one, other)


@given(st.integers(1, 40), st.floats(0, 0.99), st.integers(1, 3), st.integers(2, 3), st.integers(0, 9))
def test_masks_are_stretches_of_the_clips_mean(size: int, longest: float, masks: int, axis: int, seed: int) -> None:
    shape = [5, 1, 6, 6]
    shape[axis] = size
    sound = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    found = masked(sound, axis, longest, np.random.default_rng(seed).random((5, 2 * masks)))
    hidden = (found != sound).transpose(axis, 3)
    assert (hidden == hidden[:, :, :1]).all()  # over the whole other axis
    for clip, before, here in zip(found, sound, hidden[:, 0, 0], strict=True):
        assert here.sum() <= masks * int(longest * size)
        starts = (here & ~torch.cat((torch.tensor([False]), here[:-1]))).sum()
        assert starts <= masks
        assert torch.equal(clip[clip != before], before.mean().expand(int((clip != before).sum())))


def test_gain_is_a_constant_on_logarithms_and_noise_has_the_clips_deviation(small_store: Store) -> None:
    [plain] = some(small_store)
    audio, visual = changed(small_store, augment__gain=20.0)
    moved = (audio - plain.audio).flatten(1)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), atol=1e-5, rtol=0)
    decibels = moved[:, 0] / (math.log(10) / 10)  # small_store's scale is 1
    assert decibels.abs().max() <= 20
    assert decibels.std().item() == pytest.approx(20 / 3**0.5, rel=0.3)
    assert torch.equal(visual, plain.visual)
    noise = changed(small_store, augment__noise=0.5)[0] - plain.audio
    assert (noise.std() / plain.audio.std((1, 2, 3)).mean()).item() == pytest.approx(0.5, rel=0.05)
    # It can change nothing where each clip is standardised over itself.
    assert torch.equal(changed(small_store, augment__gain=20.0, prepare__sound_scaling="clip")[0], plain.audio)


def test_a_waveform_is_multiplied(tmp_path: Any) -> None:
    settings = Prepare(**(SETTINGS.model_dump() | {"spectrogram": "waveform", "seconds": 0.01}))
    store = write_store(tmp_path / "store", settings=settings)
    [plain] = some(store)
    fields = {"augment__gain": 6.0, "augment__frequency_mask": 0.9, "prepare__spectrogram": "waveform"}
    factors = (changed(store, **fields)[0] / plain.audio).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-3, atol=0)
    assert 10 ** (-6 / 20) <= factors.min() < 0.9 < 1.1 < factors.max() <= 10 ** (6 / 20) + 1e-3


def test_the_frames_of_a_clip_have_one_policy(tmp_path: Any) -> None:
    store = write_store(tmp_path / "store", settings=Prepare(**(SETTINGS.model_dump() | {"frames": 2})))
    [plain] = some(store)
    same = plain.visual[:, :1].expand_as(plain.visual).clone()
    plain.visual.copy_(same)
    config = from_mapping(SMALL | {"augment.frames": "trivialaugment", "prepare.frames": 2})
    visual = Augmentation(config, store, 0, 48)(plain)[0].visual
    assert torch.equal(visual[:, 0], visual[:, 1])
    assert not torch.equal(visual, same)


def test_dropping_keeps_the_mean_of_features_and_one_modality_of_each_clip(small_store: Store) -> None:
    fields = {"model.dropout": 0.25, "augment.drop_audio": 0.4, "augment.drop_visual": 0.6, "model.width": 64}
    config = from_mapping(SMALL | fields)
    network = Trainer(config, small_store).network
    [batch] = some(small_store)
    network.dropped = found = dropped(config, network, batch, epoch=0, number=0)
    for factors in found.features.values():
        assert factors.unique().tolist() == pytest.approx([0, 4 / 3])
        assert factors.mean().item() == pytest.approx(1, rel=0.05)
    heard, seen = found.fused["audio"], found.fused["visual"]
    assert (heard ^ seen).all()  # 0.4 + 0.6: never both
    assert heard.float().mean().item() == pytest.approx(0.6, abs=0.15)
    features = torch.ones(48, 256)
    outputs = network.train().read(features, features)
    alone = torch.where(heard, outputs.audio, outputs.visual) + network.fusion.head.bias / 2
    torch.testing.assert_close(outputs.fused, alone)
    whole = network.eval().read(features, features)
    torch.testing.assert_close(whole.fused, whole.audio + whole.visual)
    assert torch.equal(whole.audio, outputs.audio)


@pytest.mark.parametrize("partner", ["shared", "own"])
def test_mixed_clips_and_their_labels_have_the_same_shares(partner: str, small_store: Store) -> None:
    fields = {"augment.mixup": 0.5, "augment.mixup_partner": partner, "labels.smoothing": 0.1}
    config = from_mapping(SMALL | fields | {"method": "unimodal_losses", "purify.epochs": 0})
    trainer = Trainer(config, small_store)
    augmentation, [plain] = Augmentation(config, small_store, 0, 48), some(small_store)
    pairs = augmentation.partners
    batch, mixed = augmentation(replace(plain, own=np.arange(48), partners=pairs))
    for column, (name, inputs, whole) in enumerate(
        (("audio", batch.audio, plain.audio), ("visual", batch.visual, plain.visual))
    ):
        others = torch.from_numpy(pairs[:, column if partner == "own" else 0])
        share = mixed.share[name].view(-1, *[1] * (inputs.ndim - 1))
        assert sorted(others.tolist()) == list(range(48))
        assert share.min() >= 0.5
        torch.testing.assert_close(inputs, share * whole + (1 - share) * whole[others])
        assert torch.equal(mixed.labels[name], plain.labels[others])
    assert torch.equal(mixed.share["audio"], mixed.share["visual"]) is (partner == "shared")
    # The cost is torch's of the mixed labels; the fused one's labels are the mean of both modalities'.
    soft = {}
    for name in ("audio", "visual"):
        one, other = (torch.nn.functional.one_hot(labels, 3) for labels in (plain.labels, mixed.labels[name]))
        soft[name] = mixed.share[name][:, None] * one + (1 - mixed.share[name][:, None]) * other
    soft["fused"] = (soft["audio"] + soft["visual"]) / 2
    trainer.method.mixed = mixed
    logits = torch.randn(48, 3)
    for head, labels in soft.items():
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
        torch.testing.assert_close(trainer.method.cross_entropy(logits, batch.labels, head), expected)
