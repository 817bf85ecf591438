"""resample: clips come again without the modality that does well on them, so that the other one must learn.

Wei, Feng, Wang, Hu: Enhancing Multimodal Cooperation via Sample-level Modality Valuation, CVPR 2024.

A set of modalities is worth to a clip how many they are if the answer from them alone is right, else 0. The
contribution of a modality is its Shapley value: c_audio = (v(audio) + v(both) - v(visual)) / 2, likewise c_visual; it
is one of -1/2, 0, 1/2, 1, 3/2. Before each epoch, from the training clips:

* level=sample: where c_m < 1 the clip comes again 2 * (1 - c_m) times with the features of the other modality zero;
* level=modality: with the mean contributions over a random `part` of the clips, alpha * 2/3 * |c_audio - c_visual| of
  all clips, drawn with replacement, come again with the features of the modality with the higher one zero.

CE(fused) of all of them. Numbers of copies and the 2/3 are the code's, as is what an absent modality is: zero features.
Unlike there, contributions are measured without augmentation. An epoch has up to four times as many steps as another
method's; a budget in seconds is the fairer comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.models.outputs import Outputs
from raygap.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Look, Step
    from raygap.models.network import Network

NONE, AUDIO, VISUAL = range(3)
"""What is missing of a clip."""


class Settings(Section):
    """What is set of resample."""

    level: Literal["sample", "modality"] = Field("sample", json_schema_extra=LATER)
    """Train more on each clip's own weak modality, or on the modality that is weaker over all clips."""
    part: float = Field(0.2, gt=0, le=1, json_schema_extra=LATER | acts_when({"resample.level": "modality"}))
    """modality: share of the training clips that the contributions are measured on before each epoch."""
    alpha: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER | acts_when({"resample.level": "modality"}))
    """modality: how many clips more for a difference of the contributions."""


class Resample(Joint):
    """CE(fused) of all clips, and of some again with one modality."""

    sections = {"resample": Settings}
    droppable = False

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Which clips come again, and what is missing of them."""
        settings, clips = self.config.resample, np.arange(len(self.labels))
        draw = generator(self.config.seed, "resample", epoch)
        if settings.level == "modality":
            clips = draw.choice(clips, max(int(settings.part * len(clips)), 1))
        outputs = look(clips)
        # A rounding on another machine could turn an answer.
        found = self.workers.broadcast(self._contributions(network, outputs, clips))
        self.note("resample_contribution_audio", torch.tensor(found[0].mean()))
        self.note("resample_contribution_visual", torch.tensor(found[1].mean()))
        if settings.level == "sample":
            again, missing = weak_clips(found)
        else:
            audio, visual = found.mean(1)
            count = int(settings.alpha * 2 / 3 * abs(audio - visual) * len(self.labels))
            again = draw.choice(len(self.labels), count)
            missing = np.full(count, AUDIO if audio > visual else VISUAL)
        self.again, self.missing = again, missing
        self.note("resample_clips", torch.tensor(float(len(again))))

    def draw(self, clips: np.ndarray, epoch: int) -> np.ndarray:
        """All clips, and those that come again, in a new order."""
        order = np.concatenate((clips, self.again))
        shuffled = generator(self.config.seed, "resample order", epoch).permutation(len(order))
        self.missing = np.concatenate((np.full(len(clips), NONE), self.missing))[shuffled]
        return order[shuffled]

    def outputs(self, network: Network, step: Step) -> Outputs:
        """The read-outs of whole features, and the fused logits without what is missing."""
        whole = super().outputs(network, step)
        missing = torch.from_numpy(self.missing[step.places]).to(self.device)[:, None]
        audio, visual = whole.audio_features, whole.visual_features
        fused = network.fusion(audio * (missing != AUDIO), visual * (missing != VISUAL))
        return Outputs(fused, whole.audio, whole.visual, audio, visual)

    def _contributions(self, network: Network, outputs: Outputs, clips: np.ndarray) -> np.ndarray:
        audio, visual = outputs.audio_features.to(self.device), outputs.visual_features.to(self.device)
        no_audio, no_visual = torch.zeros_like(audio), torch.zeros_like(visual)
        labels = torch.from_numpy(self.labels[clips]).to(self.device)
        with torch.no_grad():
            answers = [network.fusion(*pair) for pair in ((audio, visual), (audio, no_visual), (no_audio, visual))]
        return contributions(*((logits.argmax(1) == labels) for logits in answers)).cpu().numpy()


def contributions(both: Tensor, audio: Tensor, visual: Tensor) -> Tensor:
    """(2, N) of audio and visual, from whether each set's answer is right, (N,) each."""
    worth = 2.0 * both
    return torch.stack((audio + worth - visual.float(), visual + worth - audio.float())) / 2


def weak_clips(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the clips that come again, and what is missing of each, from the contributions (2, N)."""
    copies = (2 * (1 - found)).clip(0).astype(int)
    clips = np.arange(found.shape[1])
    again = [np.repeat(clips, count) for count in copies]
    missing = np.concatenate([np.full(len(again[0]), VISUAL), np.full(len(again[1]), AUDIO)])
    return np.concatenate(again), missing
