from contextlib import nullcontext

import numpy as np
import pytest
import torch
from steps import CLASSES, CLIPS, LABELS, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.remix import sureness
from raygap.models.network import Outputs


def looked(surer: np.ndarray) -> Outputs:
    """Predictions that are surer by sound where `surer` is true."""
    flat, sharp = torch.zeros(CLIPS, CLASSES), 5.0 * torch.eye(CLASSES)[LABELS]
    mask = torch.from_numpy(surer)[:, None]
    audio, visual = torch.where(mask, sharp, flat), torch.where(mask, flat, sharp)
    return Outputs(audio, audio, visual, audio, visual)


def test_sureness_orders_as_the_divergence_from_the_uniform_distribution() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [4.0, 4.0, 0.0]])
    p = logits.softmax(1)
    expected = (p * (p * 3).log()).sum(1)
    torch.testing.assert_close(sureness(logits) - sureness(logits[:1]), expected - expected[0])


@pytest.mark.parametrize("readout", ["split", "heads"])
def test_a_clip_trains_the_modality_that_is_less_sure_of_it(readout: str) -> None:
    method, network = method_and_network("remix", remix__gamma=0.7, model__readout=readout)
    surer_by_sound = np.arange(CLIPS) % 3 == 0
    method.begin_epoch(0, network, lambda: looked(surer_by_sound))
    order = method.draw(np.random.default_rng(0).permutation(CLIPS), 0)
    assert sorted(order) == list(range(CLIPS))
    assert surer_by_sound[order[: surer_by_sound.sum()]].all()  # the picture trains on these, and comes first
    batch = step()
    plain = network(batch.audio, batch.visual)
    heard = torch.from_numpy(~surer_by_sound)[batch.index][:, None]
    fused = network.fusion(plain.audio_features * heard, plain.visual_features * ~heard)
    own = torch.where(
        heard[:, 0], *(cross_entropy(u, batch.labels, reduction="none") for u in (plain.audio, plain.visual))
    )
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    torch.testing.assert_close(terms["fusion"], cross_entropy(fused, batch.labels))
    torch.testing.assert_close(terms["audio"] + terms["visual"], 0.7 * own.mean())
    metrics: dict[str, float] = {}
    method.end_epoch(0, metrics)
    assert metrics["remix_audio_share"] == pytest.approx((~surer_by_sound).mean())
