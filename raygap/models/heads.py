"""What some methods put in the place of the fusion; each is described in its method's file."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from raygap.models.network import draw_linear_weights


class SharedHead(nn.Module):
    """One linear head for both modalities; the fused logits are a weighted mean of theirs."""

    def __init__(self, features: int, classes: int, dynamic: bool) -> None:
        super().__init__()
        self.dynamic = dynamic
        self.head = nn.Linear(features, classes)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        logits = torch.stack(self.split(audio, visual)).float()
        if not self.dynamic:
            return logits.mean(0)
        logs = logits.log_softmax(2)
        entropy = -(logs.exp() * logs).sum(2, keepdim=True)
        return (torch.softmax(-entropy, 0) * logits).sum(0)

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of either."""
        return self.head(audio), self.head(visual)


class MeanOfHeads(nn.Module):
    """A linear head a modality; the fused logits are the mean of theirs, which are the read-out."""

    def __init__(self, audio: int, visual: int, classes: int) -> None:
        super().__init__()
        self.audio, self.visual = nn.Linear(audio, classes), nn.Linear(visual, classes)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        return (self.audio(audio) + self.visual(visual)) / 2

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of either."""
        return self.audio(audio), self.visual(visual)


class CosineFusion(nn.Module):
    """Sum over the modalities of `scale` times the cosines between features and class weights."""

    def __init__(self, audio: int, visual: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.audio = nn.Linear(audio, classes, bias=False)
        self.visual = nn.Linear(visual, classes, bias=False)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        u_audio, u_visual = self.split(audio, visual)
        return u_audio + u_visual

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The summands."""
        return self._cosines(audio, self.audio), self._cosines(visual, self.visual)

    def _cosines(self, features: Tensor, head: nn.Linear) -> Tensor:
        return self.scale * linear(normalize(features.float()), normalize(head.weight))


class OneModality(nn.Module):
    """A fusion that hears one modality: the first (audio) or the second (visual)."""

    def __init__(self, features: int, classes: int, place: int) -> None:
        super().__init__()
        self.place = place
        self.head = nn.Linear(features, classes)
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        return self.head((audio, visual)[self.place])

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Its own logits, and zeros for the other modality."""
        heard = self(audio, visual)
        silent = torch.zeros_like(heard)
        return (heard, silent) if self.place == 0 else (silent, heard)
