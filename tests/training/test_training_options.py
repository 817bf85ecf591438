"""What every option of training keeps, and closed forms of what each does."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from options import OPTIONS
from stores import SMALL, write_store

from raygap.config import MODALITIES
from raygap.data.batches import class_order
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.schema import from_mapping
from raygap.training.check import check_trial
from raygap.training.checkpoint import dumps, loads
from raygap.training.evaluation import evaluate
from raygap.training.run import load_network, train
from raygap.training.steps import Stepper
from raygap.training.trainer import Trainer
from raygap.training.trunk import warmup_key

SHORT = SMALL | {"method": "unimodal_losses", "epochs": 3, "warmup.epochs": 1, "purify.epochs": 0}


def trained(fields: dict[str, Any], store: Store, stop_after: int | None = None) -> tuple[list[dict], Trainer]:
    """Rows of a whole training, and its trainer; stopped once after an epoch, and gone on with by another process."""
    trainer, rows = Trainer(from_mapping(fields), store), []
    while not trainer.finished:
        rows.append(trainer.train_epoch())
        if trainer.epoch == stop_after:
            state = loads(dumps(trainer.state_dict()))
            trainer = Trainer(from_mapping(fields), store)
            trainer.load_state_dict(state)
    return rows, trainer


@pytest.fixture(scope="module")
def plain(small_store: Store) -> list[dict]:
    return trained(SHORT, small_store)[0]


# Of all at once a guided method, whose posteriors mixup has no meaning for.
ALL = {name: value for option, fields in OPTIONS.items() if "mixup" not in option for name, value in fields.items()}
ALL |= {"method": "gmm_scores", "loss.combine": "replace", "scores.separator": "raw"}


@pytest.mark.parametrize("option", [*OPTIONS, "all"])
def test_every_option_acts_resumes_to_the_bit_and_is_in_the_warmups_key(
    option: str, plain: list[dict], small_store: Store
) -> None:
    fields = SHORT | (OPTIONS | {"all": ALL})[option]
    rows, trainer = trained(fields, small_store)
    assert rows[0]["val_loss"] != plain[0]["val_loss"]
    again, resumed = trained(fields, small_store, stop_after=2)
    assert again == rows
    one, other = trainer.state_dict(), resumed.state_dict()
    assert str(one) == str(other)
    assert all(torch.equal(one["network"][name], other["network"][name]) for name in one["network"])
    keys = {warmup_key(from_mapping(each), "store", find_method("joint")) for each in (SHORT, fields)}
    assert len(keys) == 2


def test_the_rate_rises_with_each_step_and_is_then_the_schedules(small_store: Store) -> None:
    fields = SHORT | {"optimizer.ramp_epochs": 1.5, "optimizer.lr": 0.3, "optimizer.batch_size": 24}
    trainer, rates = Trainer(from_mapping(fields), small_store), []
    trainer.on_step = lambda: rates.append(trainer.stepper.optimizer.param_groups[0]["lr"])
    told = [trainer.train_epoch()["learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3])  # 48 clips: two steps an epoch
    assert told == pytest.approx([0.2, 0.3, 0.3])


def test_gradients_are_clipped_to_a_norm_together(small_store: Store) -> None:
    fields = SHORT | {"optimizer.clip_norm": 0.01, "optimizer.batch_size": 48, "optimizer.weight_decay": 0.0}
    trainer = Trainer(from_mapping(fields | {"optimizer.lr": 1.0, "optimizer.momentum": 0.0}), small_store)
    before = copy.deepcopy(list(trainer.network.parameters()))
    trainer.train_epoch()
    moved = [one - other for one, other in zip(before, trainer.network.parameters(), strict=True)]
    assert torch.stack([move.norm() for move in moved]).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_batches_of_one_step_are_one_batch(small_store: Store) -> None:
    # 48 clips: batches of 10, the last one of 8, against steps of 20, 20 and 8 clips.
    fields = SHORT | {"model.norm": "group", "optimizer.lr": 0.02}
    one, _ = trained(fields | {"optimizer.batch_size": 20}, small_store)
    several, _ = trained(fields | {"optimizer.batch_size": 10, "optimizer.accumulate": 2}, small_store)
    for row, other in zip(one, several, strict=True):
        for name in ("val_loss", "val_audio_loss", "train_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)


def test_the_moving_average_is_the_recursion_by_hand_and_what_is_kept(small_store: Store, tmp_path: Path) -> None:
    config = from_mapping(SHORT | {"optimizer.ema": 0.7, "optimizer.batch_size": 12, "select_epoch": "last"})
    trainer, steps = Trainer(config, small_store), []
    trainer.on_step = lambda: steps.append(copy.deepcopy(trainer.network.state_dict()))
    rows = [trainer.train_epoch() for _ in range(3)]
    floats = [name for name, values in steps[0].items() if values.is_floating_point()]
    expected = {name: steps[0][name] for name in floats}
    for step in steps[1:]:
        expected = {name: 0.7 * expected[name] + 0.3 * step[name] for name in floats}
    for name, values in expected.items():
        torch.testing.assert_close(trainer.validated.state_dict()[name], values, rtol=1e-4, atol=1e-5)
    *_, last = train(config, small_store, tmp_path)
    kept = load_network(tmp_path / "best.pt", 3)[1]
    found = evaluate(kept, small_store, "val", config, torch.device("cpu"))
    assert last["val_loss"] == rows[-1]["val_loss"] == pytest.approx(found["val_loss"], rel=1e-5)


def test_labels_are_smoothed_as_torch_does() -> None:
    method = find_method("joint")(
        from_mapping({"method": "joint", "labels.smoothing": 0.3}), np.arange(3), torch.device("cpu")
    )
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.3)(logits, labels)
    torch.testing.assert_close(method.cross_entropy(logits, labels).mean(), expected)


def test_weights_of_classes_have_mean_one_and_multiply_a_clips_cost() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    for power, ratio in ((0.5, 2**0.5), (1.0, 2.0)):
        config = from_mapping({"method": "gmm_adaptive", "labels.class_weights": power})
        method = find_method("gmm_adaptive")(config, labels, torch.device("cpu"))
        weights = method.class_weights[torch.from_numpy(labels)]
        assert weights.mean().item() == pytest.approx(1)
        assert (weights[4] / weights[0]).item() == pytest.approx(ratio)
        logits, index = torch.randn(8, 3), torch.arange(8)
        plain = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none")
        method.set_weight("fusion", np.arange(8.0))  # as the posteriors do, of each clip
        found = method.weighted("fusion", method.cross_entropy(logits, torch.from_numpy(labels)), index)
        assert found.item() == pytest.approx((torch.arange(8) / 3.5 * weights * plain).mean().item())


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 9))
def test_classes_come_equally_often_and_their_clips_in_turns(drawn: list[int], seed: int) -> None:
    labels = np.array([0, 1, *drawn])
    classes, epochs = len(set(labels)), 7
    orders = [class_order(labels, seed, epoch) for epoch in range(epochs)]
    for order in orders:
        counts = np.unique(labels[order], return_counts=True)[1]
        assert len(order) == len(labels)
        assert len(counts) == classes
        assert counts.max() - counts.min() <= 1
    often = np.bincount(np.concatenate(orders), minlength=len(labels))
    for label in set(labels):
        assert np.ptp(often[labels == label]) <= 1


def test_a_class_without_clips_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", clips=9, classes=7)
    for fields in ({"labels.class_weights": 1.0}, {"labels.draw": "classes"}):
        with pytest.raises(UserError, match=r"no training clip of class class6; set labels\."):
            Trainer(from_mapping(SHORT | fields), store)


def test_a_mixture_waits_until_each_clip_was_drawn(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    store.labels[:40] = 0  # the first 48 train: most of one class, which comes a third of the time
    fields = SHORT | {"method": "gmm_scores", "epochs": 5, "labels.draw": "classes", "scores.separator": "raw"}
    rows, _ = trained(fields, store)
    assert [row.get("mixture_degenerate") for row in rows] == [None, 1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fp16_scales_losses_and_leaves_out_a_step_that_overflows(accumulate: int) -> None:
    # On a CPU, where a trainer refuses it: the scaling is the same there.
    fields = {"optimizer.clip_norm": 0.5, "optimizer.accumulate": accumulate, "optimizer.ema": 0.5}
    networks = [torch.nn.ModuleDict({f"{m}_encoder": torch.nn.Linear(3, 2) for m in MODALITIES}) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    plain, scaled = (
        Stepper(from_mapping(fields | {"compute.precision": precision}), network)
        for precision, network in zip(("fp32", "fp16"), networks, strict=True)
    )

    def train_on(value: float, number: int) -> None:
        for stepper in (plain, scaled):
            stepper.zero_grad()
            stepper.begin(0, number, 9, 4)
            features = stepper.network["audio_encoder"](torch.full((1, 3), value))
            (stepper.loss_scale * features.square().sum()).backward()
            stepper.step()

    for number in range(accumulate):
        train_on(1.0 + number, number)
    assert scaled.loss_scale == 2**16
    for name, weights in plain.network.state_dict().items():
        torch.testing.assert_close(scaled.network.state_dict()[name], weights)
    before = copy.deepcopy(networks[1].state_dict())
    saved, scaled = scaled.state_dict(), Stepper(scaled.config, networks[1])
    scaled.load_state_dict(loads(dumps(saved)))
    train_on(1e18, accumulate)
    for number in range(1, accumulate):
        train_on(1.0, accumulate + number)
    assert scaled.loss_scale == 2**15
    assert all(torch.equal(weights, before[name]) for name, weights in networks[1].state_dict().items())


def test_fp16_is_for_gpus(small_store: Store) -> None:
    config = from_mapping(SHORT | {"compute.precision": "fp16"})
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="fp16 needs a GPU"):
            Trainer(config, small_store)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"labels.smoothing": 1.0}, "labels.smoothing"),
        ({"method": "mla", "optimizer.accumulate": 2}, "optimizer.accumulate=1"),
        ({"loss.fusion_weight": 0.0, "loss.unimodal_weight": 0.0}, "both 0"),
        ({"augment.drop_audio": 0.6, "augment.drop_visual": 0.5}, "exceed 1"),
        ({"method": "gmm_scores", "augment.mixup": 0.2}, "augment.mixup=0"),
        ({"method": "cml", "augment.mixup": 0.2}, "augment.mixup=0"),
        ({"method": "unimodal_losses", "augment.mixup": 0.2, "dus.kind": "heuristic"}, "augment.mixup=0"),
        ({"method": "joint", "augment.mixup": 0.2, "purify.epochs": 1}, "augment.mixup=0"),
        ({"method": "audio_only", "augment.mixup": 0.2, "augment.mixup_partner": "own"}, "augment.mixup=0"),
        ({"method": "arl", "compute.precision": "fp16"}, "compute.precision=bf16"),
        ({"method": "opm", "augment.drop_audio": 0.1}, "augment.drop_audio=0"),
        ({"method": "g2d", "optimizer.ema": 0.9}, "optimizer.ema=0"),
        ({"method": "tcmax", "labels.smoothing": 0.1}, "labels.smoothing=0"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        check_trial(from_mapping(fields))
    assert "\n" not in str(raised.value)
