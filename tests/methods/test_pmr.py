from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from steps import CLASSES, LABELS, method_and_network, step
from torch.nn.functional import cross_entropy

from raygap.methods.pmr import class_means, class_share, nearness
from raygap.models.network import Outputs
from raygap.rng import generator


def features(seed: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all clips, of audio and visual."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(len(LABELS), width, generator=draw), torch.rand(len(LABELS), width, generator=draw)


def looking_at(audio: torch.Tensor, visual: torch.Tensor) -> Any:
    return lambda clips: Outputs(audio[clips], audio[clips], visual[clips], audio[clips], visual[clips])


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("ahead", ["audio", "visual"])
def test_losses_against_the_papers_equations(epoch: int, ahead: str) -> None:
    method, network = method_and_network(
        "pmr", pmr__alpha=0.7, pmr__entropy_weight=0.3, pmr__entropy_epochs=2, pmr__momentum=0.4, pmr__share=0.5
    )
    batch = step(epoch=epoch)
    plain = network(batch.audio, batch.visual)
    z = {"audio": plain.audio_features.detach(), "visual": plain.visual_features.detach()}
    # Prototypes near the features of the modality that is to be ahead, and anywhere for the other.
    old, new = (dict(zip(("audio", "visual"), features(i, network.features), strict=True)) for i in (1, 2))
    new[ahead][batch.index] = z[ahead] + 0.01 * new[ahead][batch.index]
    method.begin_epoch(epoch, network, looking_at(**old))
    method.begin_epoch(epoch, network, looking_at(**new))
    chosen = class_share(LABELS, 0.5, generator(0, "pmr", epoch))
    proto, p = {}, {}
    for m in ("audio", "visual"):
        means = [
            torch.stack([source[m][[i for i in chosen if LABELS[i] == c]].mean(0) for c in range(CLASSES)])
            for source in (old, new)
        ]
        proto[m] = 0.4 * means[0] + 0.6 * means[1]
        distances = torch.stack([(z[m] - c).pow(2).sum(1).sqrt() for c in proto[m]], 1)
        p[m] = (-distances).softmax(1)
    own = {m: p[m][torch.arange(len(batch.labels)), batch.labels] for m in p}
    rho = float(own["audio"].sum() / own["visual"].sum())
    beta, gamma = np.clip(1 / rho - 1, 0, 1), np.clip(rho - 1, 0, 1)
    assert (gamma if ahead == "audio" else beta) > 0
    expected = {
        "fusion": cross_entropy(plain.fused, batch.labels),
        "prototypes_audio": -0.7 * beta * own["audio"].log().mean(),
        "prototypes_visual": -0.7 * gamma * own["visual"].log().mean(),
    }
    if epoch < 2:
        h = {m: -(p[m] * p[m].log()).sum(1).mean() for m in p}
        expected["entropy"] = -0.3 * (gamma * h["audio"] + beta * h["visual"])
    outputs, terms = method.train_step(network, torch.optim.SGD(network.parameters(), 0.1), batch, nullcontext)
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(terms[name].detach(), term.detach().float(), rtol=1e-4, atol=1e-5)
    assert not outputs.behind.requires_grad


def test_each_class_gives_a_share_of_its_clips_and_a_class_without_clips_has_no_prototype() -> None:
    labels = np.array([0] * 11 + [2] * 4)
    chosen = class_share(labels, 0.3, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [4, 0, 2]
    means = class_means(torch.randn(15, 5), torch.from_numpy(labels), 3)
    z = torch.randn(6, 5, requires_grad=True)
    chances = nearness(z, means).softmax(1)
    assert (chances[:, 1] == 0).all()
    chances[:, 0].sum().backward()
    assert z.grad.isfinite().all()
