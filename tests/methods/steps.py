"""A small network and one training step of it, for the methods' tests."""

from typing import Any

import numpy as np
import torch

from raygap.config import TrialConfig
from raygap.methods import find_method
from raygap.methods.base import Method, Step
from raygap.models.network import Network, make_network
from raygap.schema import from_mapping

torch.set_num_threads(1)  # for tensors as small as these, threads only wait for each other

CLIPS, CLASSES = 40, 3
LABELS = np.arange(CLIPS) % CLASSES
CPU = torch.device("cpu")
FIELDS = {"model.width": 4, "model.norm": "group", "warmup.epochs": 0}


def configured(name: str, **fields: Any) -> TrialConfig:
    """A configuration of a method; `a__b` stands for the field a.b."""
    return from_mapping(FIELDS | {"method": name} | {k.replace("__", "."): v for k, v in fields.items()})


def method_and_network(name: str, **fields: Any) -> tuple[Method, Network]:
    """Of a configuration; the network as it is before training, but with biases that are not zero."""
    config = configured(name, **fields)
    kind = find_method(name)
    network = make_network(config.model, CLASSES, config.seed, lambda network: kind.extend(network, config))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return kind(config, LABELS, CPU), network.train()


def step(clips: int = 12, seed: int = 0, epoch: int = 0, number: int = 0) -> Step:
    """A batch of noise with some of the labels in it."""
    draw = torch.Generator().manual_seed(seed)
    index = torch.randperm(CLIPS, generator=draw)[:clips]
    labels = torch.from_numpy(LABELS)[index]
    audio = torch.randn((clips, 1, 16, 16), generator=draw) + labels[:, None, None, None]
    visual = torch.randn((clips, 2, 3, 16, 16), generator=draw)
    return Step(audio, visual, labels, index, 1.0, epoch, number, np.arange(clips))


def gradients(network: Network) -> dict[str, torch.Tensor]:
    """A copy of each parameter's gradient by its name."""
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
