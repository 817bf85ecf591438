import pytest
import torch
from steps import CPU, LABELS, configured

from raygap.methods import find_method
from raygap.methods.cml import penalty
from raygap.models.network import Outputs


@pytest.mark.parametrize("weight", [0.0, 20.0])
def test_loss_against_its_equation(weight: float) -> None:
    method = find_method("cml")(configured("cml", cml__weight=weight, loss__unimodal_weight=0.5), LABELS, CPU)
    torch.manual_seed(0)
    audio, visual = torch.randn(30, 3), 3 * torch.randn(30, 3)
    labels = torch.from_numpy(LABELS[:30])
    terms = method.adaptive_terms(Outputs(audio + visual, audio, visual, audio, visual), labels, torch.arange(30))
    total, ce = 0.0, dict.fromkeys(("fusion", "audio", "visual"), 0.0)
    for a, v, y in zip(audio, visual, labels, strict=True):
        p = {"fusion": (a + v).softmax(0), "audio": a.softmax(0), "visual": v.softmax(0)}
        for m in ("audio", "visual"):
            only_it_is_right = p[m].argmax() == y != p["fusion"].argmax()
            total += 0.0 if only_it_is_right else max(0.0, float(p[m].max() - p["fusion"].max())) / 30
        for m in ce:
            ce[m] -= float(p[m][y].log()) / 30
    assert total > 0
    assert float(terms["calibration"]) == pytest.approx(weight * total, rel=1e-5)
    assert float(terms["fusion"]) == pytest.approx(ce["fusion"], rel=1e-5)
    assert float(terms["visual"]) == pytest.approx(0.5 * ce["visual"], rel=1e-5)


@pytest.mark.parametrize(
    ("label", "counts", "moves_both"),
    [(0, True, True), (2, True, False), (1, False, False)],
    ids=["both are right", "all are wrong", "it alone is right"],
)
def test_what_a_penalty_counts_for_and_what_it_moves(label: int, counts: bool, moves_both: bool) -> None:
    fused = torch.tensor([[0.2, 0.1, 0.0]], requires_grad=True)  # says class 0, unsurely
    alone = torch.tensor([[0.0, 3.0, 0.0]], requires_grad=True)  # says class 1
    cost = penalty(alone, fused, torch.tensor([label]))
    expected = alone.detach().softmax(1).max() - fused.detach().softmax(1).max()
    assert float(cost.detach()) == pytest.approx(float(expected) * counts)
    cost.sum().backward()
    assert bool(alone.grad.any()) is counts
    assert bool((torch.zeros(1) if fused.grad is None else fused.grad).any()) is moves_both


def test_no_penalty_where_both_together_are_surer() -> None:
    agree = torch.tensor([[2.0, 0.0, 0.0]])
    assert float(penalty(agree, 2 * agree, torch.tensor([0]))) == 0
