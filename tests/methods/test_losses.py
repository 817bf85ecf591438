import pytest
import torch
import torch.nn.functional as F

from raygap.methods.losses import alignment, excess_gap
from raygap.models.network import Outputs

LABELS = torch.tensor([0, 1, 2, 0])


def outputs(audio: torch.Tensor, visual: torch.Tensor) -> Outputs:
    return Outputs(audio + visual, audio, visual, audio, visual)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    audio, visual = torch.randn(4, 3) * 2, torch.randn(4, 3) * 2
    return audio.requires_grad_(), visual.requires_grad_()


def true_scores(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1)[torch.arange(4), LABELS]


def test_kl_equals_torch_and_moves_the_weaker_modality_alone(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    audio, visual = logits
    audio_stronger = true_scores(audio) >= true_scores(visual)
    assert audio_stronger.any()
    assert not audio_stronger.all()
    value = alignment(outputs(audio, visual), LABELS, "kl")
    a, v = audio.log_softmax(1), visual.log_softmax(1)
    a_to_v = F.kl_div(v, a, log_target=True, reduction="none").sum(1)
    v_to_a = F.kl_div(a, v, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(value, torch.where(audio_stronger, a_to_v, v_to_a))
    value.sum().backward()
    assert (audio.grad[audio_stronger] == 0).all()
    assert (visual.grad[~audio_stronger] == 0).all()
    assert (visual.grad[audio_stronger].abs().sum(1) > 0).all()


@pytest.mark.parametrize("kind", ["kl", "gap_weak", "gap_both"])
def test_gradients_against_finite_differences(kind: str, logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    audio, visual = logits
    strong = true_scores(audio) >= true_scores(visual)
    alignment(outputs(audio, visual), LABELS, kind).sum().backward()
    step = 1e-3
    for clip in range(4):
        for mine, other, is_weak in ((audio, visual, ~strong[clip]), (visual, audio, strong[clip])):
            if kind != "gap_both" and not is_weak:
                continue  # stop-gradient: the loss does depend on it, by design without a gradient
            for c in range(3):
                ends = []
                for sign in (1, -1):
                    moved = mine.detach().clone()
                    moved[clip, c] += sign * step
                    pair = (moved, other.detach()) if mine is audio else (other.detach(), moved)
                    ends.append(alignment(outputs(*pair), LABELS, kind)[clip])
                assert float(mine.grad[clip, c]) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), abs=2e-3)


def test_gap_terms_equal_the_gap(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    audio, visual = logits
    gap = (true_scores(audio) - true_scores(visual)).abs()
    for kind in ("gap_weak", "gap_both"):
        torch.testing.assert_close(alignment(outputs(audio, visual), LABELS, kind), gap)
    torch.testing.assert_close(excess_gap(outputs(audio, visual), LABELS, torch.tensor(0.3)), (gap - 0.3).clamp(min=0))


def test_alignment_is_zero_when_the_modalities_agree() -> None:
    same = torch.randn(4, 3)
    for kind in ("kl", "gap_weak", "gap_both"):
        torch.testing.assert_close(alignment(outputs(same, same), LABELS, kind), torch.zeros(4))


def test_low_precision_logits_are_raised_to_float32() -> None:
    value = alignment(outputs(torch.randn(4, 3).bfloat16(), torch.randn(4, 3).bfloat16()), LABELS, "kl")
    assert value.dtype == torch.float32
