import math
from contextlib import nullcontext

import pytest
import torch
from steps import CLIPS, CPU, LABELS, configured, method_and_network, step

from raygap.methods import find_method
from raygap.models.network import Outputs
from raygap.rng import generator


def biased(lead: float) -> tuple[Outputs, torch.Tensor]:
    """Unimodal logits by which the score of audio is `lead` times that of the picture, the same for every clip."""
    labels = torch.from_numpy(LABELS)
    logits = {}
    for name, score in (("audio", 0.2 * lead), ("visual", 0.2)):
        logits[name] = torch.full((CLIPS, 3), math.log((1 - score) / 2))
        logits[name][torch.arange(CLIPS), labels] = math.log(score)
    features = torch.ones(CLIPS, 4)
    return Outputs(logits["audio"] + logits["visual"], logits["audio"], logits["visual"], features, features), labels


@pytest.mark.parametrize(("lead", "strength"), [(2.0, 0.5), (0.5, 0.5), (4.0, 1.0), (1.0, 0.5)])
def test_the_chance_to_drop_against_its_equation(lead: float, strength: float) -> None:
    method = find_method("opm")(configured("opm", opm__q_base=0.4, opm__strength=strength), LABELS, CPU)
    outputs, labels = biased(lead)
    batch = step(clips=CLIPS)
    batch.labels = labels
    expected = [0.0, 0.0]
    if lead != 1:
        ratio = max(lead, 1 / lead)
        expected[0 if lead > 1 else 1] = 0.4 * (1 + strength * math.tanh(ratio - 1))
    assert method.drop_chance(outputs, batch).tolist() == pytest.approx(expected, abs=1e-5)


def test_dropped_features_are_missing_from_the_fused_logits_alone_and_the_rest_is_scaled() -> None:
    method, network = method_and_network("opm", opm__executed=1.0)
    batch = step(clips=CLIPS)
    got = method.outputs(network, batch)
    whole = network(batch.audio, batch.visual)
    chance = method.drop_chance(whole, batch)
    ahead = int(chance.argmax())
    assert chance[1 - ahead] == 0 < chance[ahead]
    scale = 1 / (1 - float(chance.mean().detach()))
    features = [whole.audio_features * scale, whole.visual_features * scale]
    kept = network.fusion(*features)
    features[ahead] = torch.zeros_like(features[ahead])
    missing = network.fusion(*features)
    as_kept, as_missing = (torch.isclose(got.fused, rows, atol=1e-5).all(1) for rows in (kept, missing))
    assert (as_kept ^ as_missing).all()
    assert 0.2 * CLIPS < as_missing.sum() < 0.9 * CLIPS
    assert torch.equal(got.audio, whole.audio)
    assert torch.equal(got.visual, whole.visual)
    # A clip's fate does not hang on its companions, and another epoch brings another.
    again = method.outputs(network, batch)
    assert torch.equal(again.fused, got.fused)
    batch.epoch = 1
    assert not torch.equal(method.outputs(network, batch).fused, got.fused)


def test_steps_that_are_not_executed_are_plain() -> None:
    method, network = method_and_network("opm", opm__executed=0.0)
    batch = step(clips=4)
    assert torch.equal(method.outputs(network, batch).fused, network(batch.audio, batch.visual).fused)
    method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    often = 0
    method, network = method_and_network("opm", opm__executed=0.7)
    for number in range(30):
        batch.number = number
        often += not torch.equal(method.outputs(network, batch).fused, network(batch.audio, batch.visual).fused)
    assert often == pytest.approx(21, abs=9)


def test_which_clips_are_dropped_is_found_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    method, network = method_and_network("opm", opm__executed=1.0)
    batch = step(clips=CLIPS)
    batch.index = batch.index.flip(0)
    whole = network(batch.audio, batch.visual)
    chance = method.drop_chance(whole, batch)
    numbers = generator(method.config.seed, "opm clip", batch.epoch).random(CLIPS)[batch.index.numpy()]
    kept = torch.from_numpy(numbers).float() >= chance[:, None]
    scale = 1 / (1 - chance.mean())
    expected = network.fusion(
        whole.audio_features * (kept[0] * scale)[:, None], whole.visual_features * (kept[1] * scale)[:, None]
    )
    monkeypatch.setattr(torch.Tensor, "cpu", None)  # it would wait for the device
    assert torch.equal(method.outputs(network, batch).fused, expected)
