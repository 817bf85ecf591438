from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from steps import method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.lfm import contrast

FIELDS = {"lfm__temperature": 0.3, "epochs": 50, "warmup__epochs": 8, "purify__epochs": 2, "model__fusion": "sum"}


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
    assert max(shares) == 0.95
    assert all(a <= b for a, b in pairwise(shares[:37]))


def test_loss_against_its_equation() -> None:
    method, network = method_and_network("lfm", **FIELDS)
    batch = step(epoch=20)
    plain = network(batch.audio, batch.visual)
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    share = method.share(20)
    for name, logits in (("fusion", plain.fused), ("audio", plain.audio), ("visual", plain.visual)):
        torch.testing.assert_close(terms[name], share * cross_entropy(logits, batch.labels))
    expected = (1 - share) * contrast(plain.audio_features, plain.visual_features, 0.3)
    torch.testing.assert_close(terms["contrast"], expected)
    metrics: dict[str, float] = {}
    method.end_epoch(20, metrics)
    assert metrics["lfm_classification_share"] == share
