from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from steps import configured, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.methods.lfm import contrast, gap

FIELDS = {"epochs": 50, "warmup__epochs": 8, "purify__epochs": 2}
FEATURES = FIELDS | {"lfm__variant": "features", "lfm__temperature": 0.3}


def test_gap_against_its_equation() -> None:
    draw = torch.Generator().manual_seed(1)
    audio, visual = torch.randn(2, 5, 4, generator=draw)
    for i, value in enumerate(gap(audio, visual).tolist()):
        p, q = audio[i].softmax(0), visual[i].softmax(0)
        m = (p + q) / 2
        assert value == pytest.approx(float((m * (m / p).log()).sum() + (m * (m / q).log()).sum()) / 2, abs=1e-6)
    assert float(gap(audio, audio).abs().max()) == pytest.approx(0, abs=1e-6)
    far = torch.tensor([[0.0, -300.0]], requires_grad=True)
    gap(far, -far).sum().backward()
    assert far.grad.isfinite().all()


def test_contrast_against_its_equation() -> None:
    draw = torch.Generator().manual_seed(1)
    audio, visual = torch.randn(2, 5, 7, generator=draw)
    total = 0.0
    for i in range(5):
        cosines = [
            [float(torch.cosine_similarity(audio[j], visual[k], dim=0)) / 0.3 for k in range(5)] for j in range(5)
        ]
        row, column = torch.tensor(cosines[i]), torch.tensor([cosines[j][i] for j in range(5)])
        total += float(row.logsumexp(0) + column.logsumexp(0) - 2 * row[i])
    assert float(contrast(audio, visual, 0.3)) == pytest.approx(total / 10, rel=1e-5)
    assert contrast(audio, 3 * audio, 0.01) < 1e-3 < contrast(audio, audio.flip(0), 0.01)


def test_the_share_of_classification_rises_over_the_adaptive_stage() -> None:
    method, _ = method_and_network("lfm", **FIELDS)
    shares = [method.share(epoch) for epoch in range(8, 48)]
    assert shares[0] == pytest.approx(0.2046, abs=1e-4)
    assert method.share(28) == pytest.approx(0.5392, abs=1e-4)  # of the authors' 200 epochs the 100th
    assert max(shares) == 1
    assert all(a <= b for a, b in pairwise(shares[:37]))
    older, _ = method_and_network("lfm", **FEATURES)
    assert [older.share(epoch) for epoch in (8, 9, 18)] == pytest.approx([0.05, 1 - 2.718281828**-0.3, 0.95])


@pytest.mark.parametrize("fields", [FIELDS, FEATURES], ids=["predictions", "features"])
def test_loss_against_its_equation(fields: dict) -> None:
    method, network = method_and_network("lfm", **fields)
    batch = step(epoch=20)
    plain = network(batch.audio, batch.visual)
    torch.testing.assert_close(plain.fused, (plain.audio + plain.visual) / 2)
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    share = method.share(20)
    mean = cross_entropy((plain.audio + plain.visual) / 2, batch.labels)
    if fields is FIELDS:
        expected = {"fusion": 2 * share * mean, "gap": 2 * (1 - share) * gap(plain.audio, plain.visual).mean()}
    else:
        contrasted = contrast(plain.audio_features, plain.visual_features, 0.3)
        expected = {"fusion": share * mean, "contrast": (1 - share) * contrasted}
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term)
    metrics: dict[str, float] = {}
    method.end_epoch(20, metrics)
    assert metrics["lfm_classification_share"] == share


def test_separate_heads_are_refused() -> None:
    with pytest.raises(UserError, match=r"set model\.readout=split"):
        find_method("lfm").check(configured("lfm", model__readout="heads"))
