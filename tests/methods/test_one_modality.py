import contextlib

import pytest
import torch
import torch.nn.functional as F
from steps import method_and_network, step


@pytest.mark.parametrize(("name", "heard"), [("audio_only", "audio"), ("visual_only", "visual")])
@pytest.mark.parametrize("readout", ["split", "heads"])
def test_the_other_modality_neither_speaks_nor_learns(name: str, heard: str, readout: str) -> None:
    method, network = method_and_network(name, model__readout=readout)
    batch = step()
    other = {"audio": "visual", "visual": "audio"}[heard]
    outputs, terms = method.train_step(
        network, torch.optim.SGD(network.parameters(), 0.1), batch, contextlib.nullcontext
    )
    torch.testing.assert_close(terms["fusion"], F.cross_entropy(outputs.fused, batch.labels))
    for name, parameter in network.named_parameters():
        if name.startswith(f"{other}_encoder"):
            assert parameter.grad is None
        if name.startswith(f"{heard}_encoder"):
            assert parameter.grad is not None
    with torch.no_grad():
        before = method.predict(network, batch.audio, batch.visual).fused
        setattr(batch, other, torch.randn_like(getattr(batch, other)))
        changed = method.predict(network, batch.audio, batch.visual)
    assert torch.equal(before, changed.fused)
    if readout == "split":
        assert torch.equal(getattr(changed, heard), changed.fused)
        assert not getattr(changed, other).any()
