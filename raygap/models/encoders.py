"""Encoders: one modality's input to one feature vector.

Sound comes as (B, 1, F, S), of a waveform (B, 1, 1, samples); pictures as (B, 3, H, W), one frame at a time, or as
(B, T, 3, H, W) where the encoder says `whole_clip`; features of other networks as models/features.py says.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from raygap.config import FEATURES, TIMM, VIDEO, WAVEFORM, Model
from raygap.errors import UserError
from raygap.models.base import Encoder
from raygap.models.weights import load_weights
from raygap.plugins import in_words, is_plugin, load_plugin

MEDIA = {"audio": 1, "visual": 3}
"""Channels of a spectrogram, and of a frame."""


def _normalisation(kind: str) -> Callable[[int], nn.Module]:
    """batch; sync_batch, over all workers; group, a clip alone, 16 channels or more a group (Wu and He, ECCV 2018).

    Groups of few channels would normalise the last, 1x1, maps of small frames to little more than signs.
    """
    if kind != "group":
        return nn.BatchNorm2d if kind == "batch" else nn.SyncBatchNorm
    return lambda channels: nn.GroupNorm(
        next(g for g in range(max(channels // 16, 1), 0, -1) if channels % g == 0), channels
    )


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


class Pooled(Encoder):
    """The means over a coarse grid, each standardised over the batch, and one linear layer: what a logistic regression
    sees. It knows where in the picture, or at which pitch and when, something is, and has little to learn by heart.
    """

    GRID = {1: (32, 8), 3: (12, 12)}
    """Of a spectrogram, (bins, steps), and of a frame, by their channels."""
    DROPOUT, EVEN = 0.5, 0.1
    """What is dropped in training, and a variance below which a cell counts as still, and is not blown up."""
    SCALE = 0.1
    """So that hundreds of inputs learn at the rates that small_cnn does, and do not diverge."""

    def __init__(self, channels: int, width: int, norm: str) -> None:
        super().__init__()
        height, across = self.GRID.get(channels, (12, 12))
        numbers = channels * height * across
        kinds = {"batch": nn.BatchNorm1d, "sync_batch": nn.SyncBatchNorm}
        self.pool = nn.AdaptiveAvgPool2d((height, across))
        # What comes in does not change while it learns: the mean over all batches is steadier than that of the last.
        steady = {"eps": self.EVEN, "momentum": None, "affine": False}
        self.norm = kinds[norm](numbers, **steady) if norm in kinds else nn.LayerNorm(numbers)
        self.layers = nn.Sequential(nn.Dropout(self.DROPOUT), nn.Linear(numbers, 4 * width))
        self.out_features = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_features)."""
        return self.layers(self.SCALE * self.norm(self.pool(x).flatten(1)))


def make_encoder(model: Model, modality: str, channels: int, weights: bool = True) -> Encoder:
    """A modality's encoder, with attribute `out_features`, for inputs of `channels` channels (of features: numbers).

    It comes with the weights that the model's settings name, unless these are loaded later (`weights` False); what was
    loaded stands in its attribute `loaded`. One from elsewhere, `package.module:function`, is what the function makes
    of (settings, channels). Raises UserError if that is no encoder, or for weights that are none of its.
    """
    settings, source = model.of(modality), getattr(model, modality).weights
    encoder = _make(settings, modality, channels, source)
    encoder.loaded = load_weights(encoder, settings.encoder, source, modality) if weights and source != "none" else ""
    return encoder


def _make(settings: Model, modality: str, channels: int, weights: str) -> Encoder:
    name = settings.encoder
    if name == "small_cnn":
        return SmallCNN(channels, settings.width, settings.norm)
    if name == "pooled":
        return Pooled(channels, settings.width, settings.norm)
    if name in FEATURES:
        from raygap.models.features import FEATURE_ENCODERS

        return FEATURE_ENCODERS[name](channels, settings.width, settings.norm)
    if name in WAVEFORM:
        from raygap.models.waveform import Waveform

        return Waveform(name)
    if name.startswith(TIMM) or not is_plugin(name):
        # Here, not above: it brings in torch.compile's machinery, seconds for a process that builds no such network.
        from raygap.models.library import Timm, Torchvision, Video

        if name in VIDEO and modality == "audio":
            raise UserError(f"model.audio.encoder: {name} is for the frames of a clip; choose one for sound")
        kind: type[Timm | Video | Torchvision] = (
            Timm if name.startswith(TIMM) else Video if name in VIDEO else Torchvision
        )
        encoder = kind(name.removeprefix(TIMM), channels, weights)
        return encoder if settings.norm == "batch" else with_norm(encoder, settings.norm, weights)
    return _make_own(settings, channels)


def _make_own(settings: Model, channels: int) -> Encoder:
    what = f"model.encoder {settings.encoder}"
    make = load_plugin(settings.encoder, "model.encoder")
    try:
        encoder = make(settings, channels)
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"{what}: fails for {channels} channels ({in_words(error)})") from None
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{what}: gives no torch.nn.Module for (model settings, channels), but {encoder!r:.80}")
    features = getattr(encoder, "out_features", None)
    if not isinstance(features, int) or features < 1:
        raise UserError(f"{what}: its module needs out_features, the length of its feature vectors, not {features!r}")
    return cast(Encoder, encoder)


def with_norm(encoder: Encoder, norm: str, weights: str) -> Encoder:
    """A library's network with another normalisation in place of its batch normalisation; others keep what they have.

    Raises UserError for weights that were trained with batch normalisation and are to go on without.
    """
    if norm == "sync_batch":
        return cast(Encoder, nn.SyncBatchNorm.convert_sync_batchnorm(encoder))
    make_norm, found = _normalisation(norm), False
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, make_norm(child.num_features))
                found = True
    if found and weights != "none":
        raise UserError(f"model.norm = {norm}: the weights {weights} need batch normalisation; set model.norm=batch")
    return encoder


def check_shape(name: str, encoder: Encoder, batch: Tensor) -> None:
    """Raise UserError unless an encoder gives a feature vector a clip of such a batch."""
    with torch.no_grad():
        try:
            given = encode_frames(encoder.eval(), batch)
        except Exception as error:
            raise UserError(f"model.encoder {name}: fails on {_shape(batch)} ({in_words(error)})") from None
    wanted = (len(batch), encoder.out_features)
    if not isinstance(given, Tensor) or given.shape != wanted:
        got = _shape(given) if isinstance(given, Tensor) else f"{given!r:.80}"
        raise UserError(f"model.encoder {name}: makes {got} of {_shape(batch)}, not (B, out_features) {wanted}")


def _shape(batch: Tensor) -> str:
    return str(tuple(batch.shape))


def encode_frames(encoder: nn.Module, x: Tensor) -> Tensor:
    """A modality's batch to (B, features): of frames (B, T, C, H, W) every one through the encoder, and the mean over
    time, unless it takes them together."""
    if x.ndim != 5 or getattr(encoder, "whole_clip", False):
        return encoder(x)
    features = encoder(torch.flatten(x, 0, 1))
    return features.unflatten(0, x.shape[:2]).mean(1)
