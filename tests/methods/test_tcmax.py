import math
from contextlib import nullcontext

import pytest
import torch
from steps import method_and_network, step

from raygap.methods.tcmax import all_pairs, total_correlation


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_loss_against_its_equation(fusion: str) -> None:
    readout = "split" if fusion in ("concat", "sum") else "heads"
    method, network = method_and_network("tcmax", model__fusion=fusion, model__readout=readout)
    batch = step(clips=5)
    plain = network(batch.audio, batch.visual)
    a, v = plain.audio_features, plain.visual_features
    f = [[network.fusion(a[j : j + 1], v[k : k + 1])[0] for k in range(5)] for j in range(5)]
    everything = torch.cat([logits for row in f for logits in row]).exp().sum()
    chances = [f[i][i][y].exp() / everything for i, y in enumerate(batch.labels)]
    expected = -sum(chance.log() for chance in chances) / 5 - math.log(5)
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    torch.testing.assert_close(terms["fusion"], expected, rtol=1e-4, atol=1e-4)
    assert (terms.keys() == {"fusion"}) is (readout == "split")


def test_it_is_zero_where_only_the_true_pairs_count_and_the_log_of_the_choices_where_nothing_does() -> None:
    labels = torch.tensor([1, 0, 1])
    pairs = torch.zeros(3, 3, 2)
    assert float(total_correlation(pairs, labels)) == pytest.approx(math.log(3 * 3 * 2) - math.log(3))
    pairs[torch.arange(3), torch.arange(3), labels] = 100.0
    assert float(total_correlation(pairs, labels)) == pytest.approx(0, abs=1e-5)


def test_pairs_are_sound_by_picture() -> None:
    _, network = method_and_network("tcmax")
    a, v = torch.randn(2, 4, network.features)
    torch.testing.assert_close(all_pairs(network.fusion, a, v)[1, 3], network.fusion(a[1:2], v[3:4])[0])
