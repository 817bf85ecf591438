"""Encoders of features that other networks have made of a clip: vectors (B, D), or sequences of them (B, L, D + 1).

Of a sequence the last number of a step is 1 where the step is there, and 0 beyond its end, where all numbers are 0.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from raygap.models.base import Encoder


def mean_over_steps(x: Tensor) -> Tensor:
    """(B, D) as it is, (B, L, D + 1) -> (B, D): the mean over the steps that are there."""
    if x.ndim == 2:
        return x
    there = x[..., -1:]
    return (x[..., :-1] * there).sum(1) / there.sum(1).clamp_min(1)


class Linear(Encoder):
    """One linear layer over the mean of the steps."""

    def __init__(self, numbers: int, width: int, norm: str) -> None:
        super().__init__()
        self.out_features = 4 * width
        self.layer = nn.Linear(numbers, self.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) or (B, L, D + 1) -> (B, out_features)."""
        return self.layer(mean_over_steps(x))


class MLP(Encoder):
    """Two layers, each followed by normalisation and ReLU, over the mean of the steps."""

    def __init__(self, numbers: int, width: int, norm: str) -> None:
        super().__init__()
        self.out_features = wide = 4 * width
        make_norm = {"batch": nn.BatchNorm1d, "sync_batch": nn.SyncBatchNorm, "group": nn.LayerNorm}[norm]
        self.layers = nn.Sequential(
            *(nn.Linear(numbers, wide, bias=False), make_norm(wide), nn.ReLU(inplace=True)),
            *(nn.Linear(wide, wide, bias=False), make_norm(wide), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) or (B, L, D + 1) -> (B, out_features)."""
        return self.layers(mean_over_steps(x))


class Transformer(Encoder):
    """Two layers of self-attention over the steps, with sine positions (Vaswani et al., NeurIPS 2017), and the mean."""

    def __init__(self, numbers: int, width: int, norm: str) -> None:
        super().__init__()
        self.out_features = wide = 4 * width
        self.input = nn.Linear(numbers, wide)
        layer = nn.TransformerEncoderLayer(wide, 4, 2 * wide, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(wide), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) or (B, L, D + 1) -> (B, out_features)."""
        if x.ndim == 2:
            x = torch.cat((x, torch.ones_like(x[:, :1])), 1)[:, None]
        there = x[..., -1:]
        steps = self.input(x[..., :-1]) + positions(x.shape[1], self.out_features, x.device)
        beyond = there[..., 0] == 0
        beyond[:, 0] = False  # attention to nothing would be NaN
        steps = self.layers(steps, src_key_padding_mask=beyond)
        return (steps * there).sum(1) / there.sum(1).clamp_min(1)


def positions(steps: int, wide: int, device: torch.device) -> Tensor:
    """(steps, wide): sines and cosines of the place of a step, wide an even number."""
    place = torch.arange(steps, device=device)[:, None]
    rates = torch.exp(torch.arange(0, wide, 2, device=device) * (-math.log(10_000) / wide))
    return torch.stack(((place * rates).sin(), (place * rates).cos()), 2).flatten(1)


FEATURE_ENCODERS: dict[str, type[Any]] = {"linear": Linear, "mlp": MLP, "transformer": Transformer}
