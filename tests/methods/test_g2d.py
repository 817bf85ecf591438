import copy
from contextlib import nullcontext

import pytest
import torch
from steps import configured, gradients, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.errors import UserError
from raygap.methods import find_method
from raygap.models.network import make_network

FIELDS = {"warmup__epochs": 2, "epochs": 12, "g2d__logit_weight": 0.6, "g2d__feature_weight": 3.0, "g2d__led": 0.3}


@pytest.mark.parametrize("epoch", [4, 5], ids=["led", "no longer led"])
def test_a_step_against_its_equations(epoch: int) -> None:
    method, network = method_and_network("g2d", **FIELDS)
    batch = step(epoch=epoch)
    with torch.no_grad():  # an audio teacher that knows the labels better
        features = network(batch.audio, batch.visual).audio_features
        wanted = torch.nn.functional.one_hot(batch.labels, 3).float()
        network.fusion.audio.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
        network.fusion.visual.weight.zero_()
    teachers = copy.deepcopy(network)
    method.begin_epoch(2, network, None)
    fresh = make_network(method.config.model, 3, 0, lambda new: method.extend(new, method.config))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), fresh.parameters(), strict=True))
    taught, plain = teachers(batch.audio, batch.visual), fresh(batch.audio, batch.visual)
    loss = cross_entropy(plain.fused, batch.labels)
    for m in ("audio", "visual"):
        t, log_s = getattr(taught, m).detach().softmax(1), plain.fused.log_softmax(1)
        loss = loss + 0.6 * (t * (t.log() - log_s)).sum() / 12
        apart = getattr(plain, f"{m}_features") - getattr(taught, f"{m}_features").detach()
        loss = loss + 3.0 * apart.square().mean()
    loss.backward()
    _, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.0), batch, nullcontext)
    torch.testing.assert_close(sum(terms.values()).detach(), loss.detach())
    got = gradients(network)
    for name, gradient in gradients(fresh).items():
        stopped = epoch == 4 and name.startswith("audio") and gradient.ndim == 4
        torch.testing.assert_close(got[name], gradient * (not stopped), rtol=1e-4, atol=1e-6)


def test_the_read_out_must_be_its_heads() -> None:
    with pytest.raises(UserError, match=r"set model\.readout=split"):
        find_method("g2d").check(configured("g2d", warmup__epochs=1, model__readout="heads"))
