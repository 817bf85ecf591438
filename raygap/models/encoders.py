"""Encoders: one modality's picture-like input to one feature vector."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from raygap.config import Model
from raygap.errors import UserError
from raygap.plugins import in_words, is_plugin, load_plugin


def _normalisation(kind: str) -> Callable[[int], nn.Module]:
    """batch; sync_batch, over all workers; group, a clip alone, 16 channels or more a group (Wu and He, ECCV 2018).

    Groups of few channels would normalise the last, 1x1, maps of small frames to little more than signs.
    """
    if kind != "group":
        return nn.BatchNorm2d if kind == "batch" else nn.SyncBatchNorm
    return lambda channels: nn.GroupNorm(
        next(g for g in range(max(channels // 16, 1), 0, -1) if channels % g == 0), channels
    )


class Encoder(nn.Module):
    """What an encoder has besides; one of a user's own need not be of this class."""

    out_features: int
    """Length of its feature vectors."""


class SmallCNN(Encoder):
    """Four 3x3 convolutions, each followed by 2x2 pooling, normalisation and ReLU; then the mean over the map.

    Pooling first leaves a quarter of the map to normalise: a third of an epoch on a CPU.
    """

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        make_norm = _normalisation(norm)
        layers: list[nn.Module] = []
        for wide in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.MaxPool2d(2, ceil_mode=True)]
            layers += [make_norm(wide), nn.ReLU(inplace=True)]
            channels = wide
        self.layers = nn.Sequential(*layers)
        self.out_features = channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.layers(x).mean((2, 3))


class ResNet18(Encoder):
    """torchvision's ResNet-18 from random weights, with a stem for `channels` and no classifier."""

    out_features = 512

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        # Here, not above: it brings in torch.compile's machinery, seconds for a process that builds no network.
        from torchvision.models import resnet18

        self.net = resnet18(weights=None, norm_layer=_normalisation(norm))
        self.net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.net.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 512)."""
        return self.net(x)


ENCODERS: dict[str, Callable[[int, int, str], Encoder]] = {"small_cnn": SmallCNN, "resnet18": ResNet18}


def make_encoder(model: Model, channels: int) -> Encoder:
    """An encoder with attribute `out_features` for inputs of `channels` channels.

    One from elsewhere, `package.module:function`, is what the function makes of the same two arguments. Raises
    UserError if that is no encoder.
    """
    if not is_plugin(model.encoder):
        return ENCODERS[model.encoder](channels, model.width, model.norm)
    what = f"model.encoder {model.encoder}"
    make = load_plugin(model.encoder, "model.encoder")
    try:
        encoder = make(model, channels)
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{what}: fails for {channels} channels ({in_words(error)})") from None
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{what}: gives no torch.nn.Module for (model settings, channels), but {encoder!r:.80}")
    features = getattr(encoder, "out_features", None)
    if not isinstance(features, int) or features < 1:
        raise UserError(f"{what}: its module needs out_features, the length of its feature vectors, not {features!r}")
    return cast(Encoder, encoder)


def check_shape(name: str, encoder: Encoder, batch: Tensor) -> None:
    """Raise UserError unless an encoder gives a feature vector a clip of such a batch."""
    with torch.no_grad():
        try:
            given = encoder.eval()(batch)
        except Exception as error:
            raise UserError(f"model.encoder {name}: fails on {_shape(batch)} ({in_words(error)})") from None
    wanted = (len(batch), encoder.out_features)
    if not isinstance(given, Tensor) or given.shape != wanted:
        got = _shape(given) if isinstance(given, Tensor) else f"{given!r:.80}"
        raise UserError(f"model.encoder {name}: makes {got} of {_shape(batch)}, not (B, out_features) {wanted}")


def _shape(batch: Tensor) -> str:
    return str(tuple(batch.shape))


def encode_frames(encoder: nn.Module, frames: Tensor) -> Tensor:
    """(B, T, C, H, W) -> (B, features): every frame through the encoder, then the mean over time."""
    features = encoder(torch.flatten(frames, 0, 1))
    return features.unflatten(0, frames.shape[:2]).mean(1)
