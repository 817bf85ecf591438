from typing import Any

import numpy as np
import pytest
import torch
from steps import CLASSES, CLIPS, CPU, LABELS, configured, step
from stores import SMALL
from torch.nn.functional import cross_entropy

from raygap.data.store import Store
from raygap.errors import UserError
from raygap.imbalance.discrepancy import cumulative_score
from raygap.methods import METHODS, find_method
from raygap.methods.dus import Dus, heuristic
from raygap.methods.ppo import ACTIONS, DISCOUNT, TRACE, advantages
from raygap.models.network import Outputs
from raygap.schema import from_mapping
from raygap.training.checkpoint import dumps, loads
from raygap.training.trainer import Trainer


def dus(kind: str, clips: int = 4000, **fields: Any) -> Dus:
    return Dus(configured("unimodal_losses", dus__kind=kind, **fields), clips, CPU)


def test_the_dominant_modality_draws_fewer_bounded_below() -> None:
    assert heuristic(torch.tensor([0.8, 0.6]), 1.0, 0.25).tolist() == pytest.approx([0.75, 1.0])
    assert heuristic(torch.tensor([0.2, 0.8]), 2.0, 0.25).tolist() == pytest.approx([1.0, 0.25])
    assert heuristic(torch.tensor([0.5, 0.5]), 1.0, 0.25).tolist() == [1.0, 1.0]
    assert heuristic(torch.tensor([0.8, 0.6]), 0.0, 0.25).tolist() == [1.0, 1.0]


def test_scores_accumulate_as_the_mean_of_all_steps_and_set_the_next_draw() -> None:
    draw = dus("heuristic")
    scores = np.random.default_rng(0).uniform(0.2, 0.9, (7, 2))
    for number, (audio, visual) in enumerate(scores):
        draw.observe(torch.tensor([audio, visual, 0.5], dtype=torch.float32), 0, number)
    expected = [cumulative_score(scores[:, m])[-1] for m in (0, 1)]
    assert draw.cumulative.tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(draw.ratios, heuristic(draw.cumulative, 1.0, 0.25))
    index = torch.arange(4000)
    shares = [float(draw.mask(m, index, 3).mean()) for m in ("audio", "visual")]
    assert shares == pytest.approx(draw.ratios.tolist(), abs=0.03)
    # A part of the batch draws what it would draw within the whole: workers do not matter.
    part = torch.tensor([5, 17, 3999])
    assert torch.equal(draw.mask("audio", part, 3), draw.mask("audio", index, 3)[part])
    assert not torch.equal(draw.mask("audio", index, 4), draw.mask("audio", index, 3))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.unimodal_losses])
def test_what_is_not_drawn_teaches_its_modality_nothing(name: str) -> None:
    method = find_method(name)(configured(name, dus__kind="heuristic"), LABELS, CPU)
    batch = step(clips=CLIPS)
    audio, visual = (torch.randn(CLIPS, CLASSES, requires_grad=True) for _ in range(2))
    outputs = Outputs((audio + visual).detach(), audio, visual, audio, visual)
    method.dus.ratios = torch.tensor([0.4, 1.0])
    terms = method.adaptive_terms(outputs, batch.labels, batch.index)
    (terms["audio"] + terms["visual"]).backward()
    drawn = method.dus.mask("audio", batch.index, 0)
    assert 0 < drawn.sum() < CLIPS
    assert torch.equal(audio.grad.abs().sum(1) > 0, drawn > 0)
    assert (visual.grad.abs().sum(1) > 0).all()
    losses = {
        name: cross_entropy(logits.detach(), batch.labels, reduction="none")
        for name, logits in (("audio", audio), ("visual", visual))
    }
    weight = terms["visual"].detach() / losses["visual"].mean()  # of all clips
    torch.testing.assert_close(terms["audio"].detach(), weight * (losses["audio"] * drawn).sum() / CLIPS)


def test_advantages_against_their_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(9, generator=draw), torch.randn(10, generator=draw)
    errors = [rewards[t] + DISCOUNT * values[t + 1] - values[t] for t in range(9)]
    expected = [sum((DISCOUNT * TRACE) ** (k - t) * errors[k] for k in range(t, 9)) for t in range(9)]
    torch.testing.assert_close(advantages(rewards, values), torch.stack(expected))


def test_the_policy_learns_the_draw_that_raises_the_fused_score() -> None:
    """A world in which the fused score rises only while audio draws a quarter."""
    draw = dus("ppo")
    chosen = []
    fused = 0.0
    for number in range(32 * 40 + 1):
        fused += 0.5 if draw.ratios.tolist() == [0.25, 1.0] else -0.1
        draw.observe(torch.tensor([0.5, 0.5, fused]), 0, number)
        chosen.append(draw.ratios.tolist() == [0.25, 1.0])
    assert sum(chosen[:200]) / 200 < 0.5
    assert sum(chosen[-200:]) / 200 > 0.8
    assert tuple(ACTIONS.shape) == (7, 2)


@pytest.mark.parametrize("kind", ["heuristic", "ppo"])
def test_a_resumed_training_draws_what_an_uninterrupted_one_draws(kind: str, small_store: Store) -> None:
    config = from_mapping(
        SMALL
        | {"method": "unimodal_losses", "epochs": 6, "warmup.epochs": 1, "dus.kind": kind}
        | {"optimizer.batch_size": 4, "purify.epochs": 0}
    )
    whole = Trainer(config, small_store)
    rows = [whole.train_epoch() for _ in range(6)]
    stopped, resumed = [], Trainer(config, small_store)
    while not resumed.finished:
        stopped.append(resumed.train_epoch())
        state = loads(dumps(resumed.state_dict()))
        resumed = Trainer(config, small_store)
        resumed.load_state_dict(state)
    assert stopped == rows
    assert all(0.25 <= row["dus_drawn_audio"] <= 1 for row in rows[1:])
    assert any(row["dus_drawn_audio"] < 1 or row["dus_drawn_visual"] < 1 for row in rows[1:])
    assert "dus_drawn_audio" not in rows[0]


def test_methods_without_unimodal_losses_refuse_it() -> None:
    with pytest.raises(UserError, match=r"joint has no field dus\.kind"):
        find_method("joint").check(configured("joint", dus__kind="ppo"))
