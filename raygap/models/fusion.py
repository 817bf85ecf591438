"""Fusion: two feature vectors, of any lengths, to the fused logits. concat and sum can be cut into unimodal logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """One linear layer over the joined features."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.sizes = audio, visual
        self.head = nn.Linear(audio + visual, classes)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(B, audio), (B, visual) -> (B, classes)."""
        return self.head(torch.cat((audio, visual), 1))

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Unimodal logits W_m z_m + b/2 (OGM-GE, Peng et al., CVPR 2022, eq. 3); they add up to the fused logits."""
        weight_audio, weight_visual = self.head.weight.split(self.sizes, 1)
        half = self.head.bias / 2
        return nn.functional.linear(audio, weight_audio, half), nn.functional.linear(visual, weight_visual, half)


class Sum(nn.Module):
    """A linear layer a modality; the logits are added. The split read-out is each layer with its own bias."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.audio, self.visual = nn.Linear(audio, classes), nn.Linear(visual, classes)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(B, audio), (B, visual) -> (B, classes)."""
        return self.audio(audio) + self.visual(visual)

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Unimodal logits; they add up to the fused logits."""
        return self.audio(audio), self.visual(visual)


class FiLM(nn.Module):
    """Audio features scale and shift the visual features (Perez et al., AAAI 2018)."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(audio, 2 * visual)
        self.head = nn.Linear(visual, classes)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(B, audio), (B, visual) -> (B, classes)."""
        scale, shift = self.modulation(audio).chunk(2, 1)
        return self.head(scale * visual + shift)


class Gated(nn.Module):
    """A sigmoid gate made of the audio features lets visual features through (Kiela et al., AAAI 2018)."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(audio, visual), nn.Linear(visual, visual)
        self.head = nn.Linear(visual, classes)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """(B, audio), (B, visual) -> (B, classes)."""
        return self.head(torch.sigmoid(self.gate(audio)) * self.value(visual))


FUSIONS: dict[str, Callable[[int, int, int], nn.Module]] = {"concat": Concat, "sum": Sum, "film": FiLM, "gated": Gated}
