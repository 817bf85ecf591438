from contextlib import nullcontext
from typing import Any

import pytest
import torch
from steps import configured, method_and_network, step
from stores import SMALL
from torch.nn.functional import cross_entropy, mse_loss

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.models.encoders import encode_frames
from raygap.models.network import make_network
from raygap.schema import from_mapping
from raygap.training.trainer import Trainer


@pytest.mark.parametrize("readout", ["split", "heads"])
def test_loss_against_its_equation(readout: str) -> None:
    method, network = method_and_network("umt", warmup__epochs=1, umt__weight=2.5, model__readout=readout)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    warm = method.plain_step(network, optimizer, step(seed=1), nullcontext)[1]
    assert warm.keys() == {"audio", "visual"}
    batch = step(epoch=1)
    with torch.no_grad():
        taught = [network.audio_encoder(batch.audio), encode_frames(network.visual_encoder, batch.visual)]
    method.begin_epoch(1, network, None)
    fresh = make_network(method.config.model, network.classes, 0)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), fresh.parameters(), strict=True))
    plain = fresh(batch.audio, batch.visual)
    _, terms = method.train_step(network, optimizer, batch, nullcontext)
    for p in network.audio_encoder.parameters():  # the teachers' momentum is forgotten
        assert torch.equal(optimizer.state[p]["momentum_buffer"], p.grad)
    expected = {
        "fusion": cross_entropy(plain.fused, batch.labels),
        "distance_audio": 2.5 * mse_loss(plain.audio_features, taught[0]),
        "distance_visual": 2.5 * mse_loss(plain.visual_features, taught[1]),
    }
    for name, term in expected.items():
        torch.testing.assert_close(terms[name].detach(), term.detach())
    assert (terms.keys() == expected.keys()) is (readout == "split")
    assert not any(p.requires_grad for p in method.teachers.parameters())


def test_the_teachers_are_two_unimodal_trainings(small_store: Store) -> None:
    fields = {"warmup.epochs": 2, "epochs": 2, "purify.epochs": 0, "model.readout": "heads"}
    trainers = {}
    for audio_weight in (1.0, 0.0):
        trainer = Trainer(from_mapping(SMALL | fields | {"method": "umt"}), small_store)
        terms = trainer.method.plain_terms
        trainer.method.plain_terms = lambda *batch, terms=terms, weight=audio_weight: {
            name: term * (weight if name == "audio" else 1) for name, term in terms(*batch).items()
        }
        for _ in range(2):
            trainer.train_epoch()
        trainers[audio_weight] = trainer.network
    one, other = (network.visual_encoder.state_dict() for network in trainers.values())
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"warmup__epochs": 0}, r"set warmup\.epochs"), ({"warmup__epochs": 1, "purify__epochs": 1}, r"purify\.epochs=0")],
)
def test_stages_that_do_not_suit_it_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_method("umt").check(configured("umt", **fields))
