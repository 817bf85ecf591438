import numpy as np
import pytest
import torch
from steps import LABELS, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods.gradient_blending import blended
from raygap.methods.held_out import hold_out
from raygap.models.network import Outputs

FIELDS = {"gradient_blending__super_epoch": 2, "gradient_blending__held_out": 0.25}


def test_weights_against_proposition_1() -> None:
    before = torch.tensor([[2.0, 1.8, 2.2], [2.1, 1.9, 2.3]])  # training, held out; fused, audio, visual
    now = torch.tensor([[1.0, 0.3, 1.9], [1.5, 1.4, 2.1]])
    w = []
    for k in range(3):
        g = float(before[1, k] - now[1, k])
        o = float((now[1, k] - now[0, k]) - (before[1, k] - before[0, k]))
        w.append(g / o**2)
    expected = np.array(w) / sum(w)
    np.testing.assert_allclose(blended(before, now, torch.zeros(3)), expected, rtol=1e-5)
    assert expected.argmax() == 2  # visual gained least, and overfitted least of all


def test_what_got_worse_weighs_nothing_and_nothing_gained_changes_nothing() -> None:
    before, last = torch.full((2, 3), 1.0), torch.tensor([0.2, 0.3, 0.5])
    now = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.9, 1.3]])
    torch.testing.assert_close(blended(before, now, last), torch.tensor([0.5, 0.5, 0.0]))
    assert torch.equal(blended(before, before + 0.1, last), last)


def test_losses_are_measured_at_each_super_epoch_and_the_blend_weighs_the_terms() -> None:
    method, network = method_and_network("gradient_blending", **FIELDS)
    asked: list[np.ndarray] = []
    answers = [torch.randn(len(LABELS), 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)]

    def look(clips: np.ndarray | None = None) -> Outputs:
        asked.append(clips)
        logits = answers[len(asked) - 1][clips]
        return Outputs(logits[:, 0], logits[:, 1], logits[:, 2], logits[:, 1], logits[:, 2])

    for epoch in range(4):
        method.begin_epoch(epoch, network, look)
    assert len(asked) == 2
    held, compared = hold_out(LABELS, 0.25, 0)
    assert asked[0].tolist() == [*compared, *held]
    measured = []
    for answer in answers:
        rows = [[cross_entropy(answer[c, k], torch.from_numpy(LABELS[c])) for k in range(3)] for c in (compared, held)]
        measured.append(torch.tensor(rows))
    w = blended(*measured, torch.full((3,), 1 / 3))
    batch = step()
    outputs = network(batch.audio, batch.visual)
    terms = method.adaptive_terms(outputs, batch.labels, batch.index)
    for k, (name, logits) in enumerate({"fusion": "fused", "audio": "audio", "visual": "visual"}.items()):
        torch.testing.assert_close(terms[name], w[k] * cross_entropy(getattr(outputs, logits), batch.labels))


def test_held_out_clips_are_never_drawn_and_every_class_keeps_most_of_its_clips() -> None:
    labels = np.array([0] * 20 + [1] * 5 + [2] * 2 + [3])
    held, compared = hold_out(labels, 0.1, seed=3)
    assert np.bincount(labels[held], minlength=4).tolist() == [2, 1, 0, 0]
    assert np.bincount(labels[compared], minlength=4).tolist() == [2, 1, 0, 0]
    assert not set(held) & set(compared)
    assert hold_out(labels, 0.1, seed=4)[0].tolist() != held.tolist()
    method, _ = method_and_network("gradient_blending", **FIELDS)
    drawn = method.draw(np.arange(len(LABELS))[::-1], 0)
    assert sorted([*drawn, *method.held]) == list(range(len(LABELS)))


def test_a_warmup_is_refused() -> None:
    method, _ = method_and_network("gradient_blending", warmup__epochs=1)
    with pytest.raises(UserError, match=r"gradient_blending needs warmup\.epochs = 0, not 1"):
        method.check(method.config)


def test_purification_is_refused() -> None:
    method, _ = method_and_network("gradient_blending", warmup__epochs=0, purify__epochs=1)
    with pytest.raises(UserError, match=r"no scores; set purify\.epochs=0"):
        method.check(method.config)
