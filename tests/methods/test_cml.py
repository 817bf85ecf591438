import pytest
import torch
from steps import CPU, LABELS, configured

from raygap.methods import find_method
from raygap.models.network import Outputs


@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0])
def test_cml_against_its_equation(weight: float) -> None:
    method = find_method("cml")(configured("cml", cml__weight=weight, loss__unimodal_weight=0.5), LABELS, CPU)
    torch.manual_seed(0)
    audio, visual = torch.randn(9, 3), 3 * torch.randn(9, 3)
    labels = torch.from_numpy(LABELS[:9])
    terms = method.adaptive_terms(Outputs(audio + visual, audio, visual, audio, visual), labels, torch.arange(9))
    penalty, ce = 0.0, dict.fromkeys(("fusion", "audio", "visual"), 0.0)
    for a, v, y in zip(audio, visual, labels, strict=True):
        p = {"fusion": (a + v).softmax(0), "audio": a.softmax(0), "visual": v.softmax(0)}
        for m in ("audio", "visual"):
            penalty += max(0.0, float(p[m].max() - p["fusion"].max())) / 9
        for m in ce:
            ce[m] -= float(p[m][y].log()) / 9
    assert penalty > 0
    assert float(terms["calibration"]) == pytest.approx(weight * penalty, rel=1e-5)
    assert float(terms["fusion"]) == pytest.approx(ce["fusion"], rel=1e-5)
    assert float(terms["visual"]) == pytest.approx(0.5 * ce["visual"], rel=1e-5)


def test_no_penalty_where_both_together_are_surer() -> None:
    method = find_method("cml")(configured("cml", cml__weight=1.0), LABELS, CPU)
    agree = torch.tensor([[2.0, 0.0, 0.0]])
    outputs = Outputs(2 * agree, agree, agree, agree, agree)
    assert float(method.adaptive_terms(outputs, torch.tensor([0]), torch.tensor([0]))["calibration"]) == 0
