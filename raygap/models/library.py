"""Networks of torchvision and timm as encoders: without their classifier, for sound with a first layer of one channel.

Pictures come scaled with ImageNet's mean and deviation where weights of theirs are asked for (training/check.py); those
of networks that were trained with other constants are brought to these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from raygap.config import is_weights_file
from raygap.errors import UserError
from raygap.extras import need
from raygap.models.base import Encoder
from raygap.models.weights import library_weights

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation a channel, of values from 0 to 1."""


@dataclass(frozen=True)
class Expected:
    """Pictures that pretrained weights were made with."""

    size: int
    """Height and width in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """A channel, of values from 0 to 1."""


class Torchvision(Encoder):
    """A network of torchvision for pictures."""

    def __init__(self, name: str, channels: int, weights: str) -> None:
        super().__init__()
        self.expects = expected(name, weights) if channels == 3 else None
        # Weights of one network may be for pictures of other sizes than its others.
        size: Any = {"image_size": self.expects.size} if name.startswith("vit_") and self.expects else {}
        self.net = models.get_model(name, weights=None, **size)
        self.out_features = _without_classifier(self.net)
        first = _first_layer(self.net)
        if isinstance(self.net, models.ResNet):
            _replace(self.net, first, channels)
            nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        elif channels != 3:  # sound as a grey picture
            weight = self.net.get_submodule(first).weight.detach().sum(1, keepdim=True)
            with torch.no_grad():
                _replace(self.net, first, channels).weight.copy_(weight.expand(-1, channels, *weight.shape[2:]))
        self.scaled = Rescale(self.expects)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.net(self.scaled(x))


class Video(Encoder):
    """A network of torchvision for all frames of a clip."""

    whole_clip = True

    def __init__(self, name: str, channels: int, weights: str) -> None:
        super().__init__()
        self.net = models.get_model(name, weights=None)
        self.out_features = _without_classifier(self.net)
        self.expects = expected(name, weights)
        self.scaled = Rescale(self.expects)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, out_features)."""
        return self.net(self.scaled(x).transpose(1, 2))


class Timm(Encoder):
    """A network of timm's, which brings its weights to the number of channels itself."""

    def __init__(self, name: str, channels: int, weights: str) -> None:
        super().__init__()
        need("timm", f"model.encoder timm:{name}:")
        import timm

        try:
            net: Any = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
        except Exception as error:
            raise UserError(f"model.encoder timm:{name}: timm has no such network ({error})") from None
        self.net = net
        self.out_features = getattr(net, "head_hidden_size", None) or net.num_features
        self.expects = None
        if weights != "none" and not is_weights_file(weights) and channels == 3:
            given = timm.data.resolve_model_data_config(self.net)
            self.expects = Expected(given["input_size"][-1], tuple(given["mean"]), tuple(given["std"]))
        self.scaled = Rescale(self.expects)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.net(self.scaled(x))


class Rescale(nn.Module):
    """From ImageNet's mean and deviation to the weights' own; nothing where they are the same, or unknown."""

    scale: Tensor
    shift: Tensor

    def __init__(self, expects: Expected | None) -> None:
        super().__init__()
        self.needed = expects is not None and (expects.mean, expects.std) != IMAGENET
        if self.needed:
            mean, deviation, own, own_deviation = map(torch.tensor, (*IMAGENET, expects.mean, expects.std))
            self.register_buffer("scale", (deviation / own_deviation).view(3, 1, 1), persistent=False)
            self.register_buffer("shift", ((mean - own) / own_deviation).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., 3, H, W), so returned."""
        return x * self.scale + self.shift if self.needed else x


def expected(name: str, weights: str) -> Expected | None:
    """Of torchvision's weights; None of random ones, and of a file, of which it is not known."""
    if weights == "none" or is_weights_file(weights):
        return None
    given = library_weights(name, weights, f"model.visual.weights {weights}").transforms()
    return Expected(given.crop_size[0], tuple(given.mean), tuple(given.std))


def _without_classifier(net: nn.Module) -> int:
    """Take the last linear layer off; what it read is the feature vector, whose length is returned."""
    name, layer = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear)][-1]
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, nn.Identity())
    return layer.in_features


def _first_layer(net: nn.Module) -> str:
    return next(name for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d))


def _replace(net: nn.Module, name: str, channels: int) -> nn.Conv2d:
    """Put a convolution like the one of this name, but for so many channels, in its place."""
    old: Any = net.get_submodule(name)
    parent, _, leaf = name.rpartition(".")
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    setattr(net.get_submodule(parent), leaf, new)
    return new
