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


class BoostedHeads(nn.Module):
    """Classifiers of hidden layers over one output layer for both modalities, of which each uses some; see aug.

    The fused logits weigh audio's by `share`. How many are in use goes into the state, too.
    """

    def __init__(self, audio: int, visual: int, classes: int, most: int, share: float) -> None:
        super().__init__()
        self.share = share
        hidden = max(min(audio, visual) // 2, 1)
        self.audio = nn.ModuleList(nn.Linear(audio, hidden) for _ in range(most))
        self.visual = nn.ModuleList(nn.Linear(visual, hidden) for _ in range(most))
        self.head = nn.Linear(hidden, classes)
        self.used = {"audio": 1, "visual": 1}
        draw_linear_weights(self)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (B, features) -> (B, classes)."""
        u_audio, u_visual = self.split(audio, visual)
        return self.share * u_audio + (1 - self.share) * u_visual

    def split(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of either: the sums of its classifiers'."""
        return self.logits("audio", audio).sum(0), self.logits("visual", visual).sum(0)

    def logits(self, name: str, features: Tensor) -> Tensor:
        """Of each classifier in use: (B, features) -> (classifiers, B, classes)."""
        layers = (self.audio if name == "audio" else self.visual)[: self.used[name]]
        return torch.stack([self.head(layer(features).relu()) for layer in layers])

    def get_extra_state(self) -> Tensor:
        """How many classifiers audio and visual use."""
        return torch.tensor([self.used["audio"], self.used["visual"]])

    def set_extra_state(self, state: Tensor) -> None:
        """Inverse of get_extra_state."""
        self.used = dict(zip(("audio", "visual"), state.tolist(), strict=True))


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
