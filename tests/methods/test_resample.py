from collections import Counter
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from steps import CLASSES, CLIPS, LABELS, method_and_network, step
from stores import SMALL
from torch.nn.functional import cross_entropy

from raygap.data.store import Store
from raygap.methods.resample import AUDIO, NONE, VISUAL, contributions, weak_clips
from raygap.models.network import Network, Outputs
from raygap.schema import from_mapping
from raygap.training.trainer import Trainer

CASES = torch.tensor(list(product([False, True], repeat=3))).T
"""All answers that both, audio and visual can give."""


def answering(network: Network, says: dict[str, np.ndarray]) -> Any:
    """A look whose features, through the network's fusion, give these classes, (N,), by modality."""
    with torch.no_grad():
        network.fusion.head.weight.zero_()
        network.fusion.head.bias.zero_()
        network.fusion.head.weight[:, :CLASSES] = torch.eye(CLASSES)
        network.fusion.head.weight[:, network.features : network.features + CLASSES] = 0.5 * torch.eye(CLASSES)

    def look(clips: np.ndarray) -> Outputs:
        rows = {name: torch.eye(network.features)[torch.from_numpy(found[clips])] for name, found in says.items()}
        return Outputs(*[torch.zeros(len(clips), CLASSES)] * 3, rows["audio"], rows["visual"])

    return look


def test_contributions_and_copies_of_all_answers() -> None:
    both, audio, visual = CASES
    found = contributions(both, audio, visual).numpy()
    for clip in range(8):
        # By the definition: the mean over both orders of what a modality adds.
        worth = [0.0, float(audio[clip]), float(visual[clip]), 2.0 * float(both[clip])]
        assert found[0, clip] == ((worth[1] - worth[0]) + (worth[3] - worth[2])) / 2
        assert found.sum(0)[clip] == worth[3]
    again, missing = weak_clips(found)
    copies = {-0.5: 3, 0.0: 2, 0.5: 1, 1.0: 0, 1.5: 0}
    for row, lacks in ((0, VISUAL), (1, AUDIO)):
        counted = Counter(again[missing == lacks])
        assert [counted[clip] for clip in range(8)] == [copies[value] for value in found[row]]


def test_an_epoch_of_the_sample_level() -> None:
    method, network = method_and_network("resample")
    wrong = (LABELS + 1) % CLASSES
    # Sound, which speaks louder, is right but on the first ten clips; the picture on the first twenty.
    says = {"audio": np.where(np.arange(CLIPS) < 10, wrong, LABELS)}
    says["visual"] = np.where(np.arange(CLIPS) < 20, LABELS, wrong)
    method.begin_epoch(0, network, answering(network, says))
    order = method.draw(np.arange(CLIPS)[::-1], 0)
    came = Counter(zip(order.tolist(), method.missing.tolist(), strict=True))
    expected = Counter({(clip, NONE): 1 for clip in range(CLIPS)})
    # Picture right alone: c = -1/2, 1/2. Both right: 1, 1. Sound right alone, and with it the answer: 3/2, 1/2.
    expected |= {(clip, VISUAL): 3 for clip in range(10)} | {(clip, AUDIO): 1 for clip in range(10)}
    expected |= {(clip, AUDIO): 1 for clip in range(20, CLIPS)}
    assert came == expected
    metrics: dict[str, Any] = {}
    method.end_epoch(0, metrics)
    assert metrics["resample_clips"] == 60
    assert metrics["resample_contribution_audio"] == pytest.approx((10 * -0.5 + 10 + 20 * 1.5) / CLIPS)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_an_epoch_of_the_modality_level(alpha: float) -> None:
    method, network = method_and_network("resample", resample__level="modality", resample__alpha=alpha)
    asked = []
    look = answering(network, {"audio": LABELS, "visual": (LABELS + 1) % CLASSES})
    method.begin_epoch(0, network, lambda clips: asked.append(clips) or look(clips))
    assert len(asked[0]) == 0.2 * CLIPS
    order = method.draw(np.arange(CLIPS), 0)
    # c_audio = 3/2, c_visual = 1/2: the sound is missing of the clips that come again.
    again = order[method.missing == AUDIO]
    assert len(again) == int(alpha * 2 / 3 * CLIPS) == len(order) - CLIPS
    assert not (method.missing == VISUAL).any()
    assert len(set(again)) < len(again)


def test_what_is_missing_is_zero_in_the_fused_logits_alone() -> None:
    method, network = method_and_network("resample")
    method.missing = np.arange(CLIPS + 20)[::-1] % 3
    batch = step(clips=12)
    batch.places = np.arange(7, 19)
    whole = network(batch.audio, batch.visual)
    got, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    for clip, place in enumerate(batch.places):
        features = [whole.audio_features[clip], whole.visual_features[clip]]
        if lacks := method.missing[place]:
            features[lacks - 1] = torch.zeros_like(features[0])
        torch.testing.assert_close(got.fused[clip], network.fusion(features[0][None], features[1][None])[0])
    assert torch.equal(got.audio, whole.audio)
    torch.testing.assert_close(terms["fusion"], cross_entropy(got.fused, batch.labels))


def test_an_epoch_trains_on_the_clips_that_come_again_too(small_store: Store) -> None:
    fields = {"method": "resample", "epochs": 3, "warmup.epochs": 1, "purify.epochs": 0}
    trainer = Trainer(from_mapping(SMALL | fields), small_store)
    steps: list[int] = []
    train_step = trainer.method.train_step
    trainer.method.train_step = lambda *given: steps.append(len(given[2].labels)) or train_step(*given)
    rows = [trainer.train_epoch() for _ in range(2)]
    assert sum(steps) == len(trainer.rows) + rows[1]["resample_clips"]
