"""aug: the modality that classifies worse gets further classifiers, each for what those before it have not learnt.

Jiang, Huang, Yang: Rethinking Multimodal Learning from the Perspective of Mitigating Classification Ability
Disproportion, NeurIPS 2025.

A modality's logits are the sum of its classifiers', each a hidden layer with ReLU under one output layer that all
classifiers of both modalities share. With o the logits of all but the newest, n those of the newest, and p the softmax
of o, without gradient, a modality with more than one classifier has

L = CE(o + n) + CE(o) + CE(n) - residual * mean over the clips of p(y) CE(n),

with one CE alone. A step of a batch is two, audio's and then the picture's, as in mla; the answer weighs both logits,
audio's by `audio_share`. After the first adaptive epoch, and after each tenth of the stage, the modality whose summed
true-class scores over the epoch are lower, by more than a hundredth of the other's, gets another classifier.

residual is 0.5 in the code for CREMA-D and 0.2 in that for KineticSound. In that code new classifiers are not given to
the optimiser, and so stay as they are drawn; here they are trained, as the paper says. In the code for KineticSound a
small network weighs them, and CREMA-D's does not run with that model; that is left out. The classifiers take the
fusion's place; model.fusion and the read-out of separate heads have none in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.imbalance.gap import true_class_score
from raygap.lazy import torch
from raygap.methods.base import Method
from raygap.methods.losses import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Autocast, Look, Optimizer, Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


Cost = Callable[["Tensor", "Tensor"], "Tensor"]


class Settings(Section):
    """What is set of aug."""

    residual: float = Field(0.5, ge=0, le=1, json_schema_extra=LATER)
    """How much less the newest classifier learns of what those before it know."""
    audio_share: float = Field(0.4, ge=0, le=1)
    """Weight of audio's logits in the answer; the picture's have the rest."""


PERIODS = 10
"""Of the adaptive stage, after each of which a classifier may come; one comes after its first epoch too."""
MARGIN = 0.01


class Aug(Method):
    """Two updates a batch, one a modality, and classifiers that come as they are needed."""

    sections = {"aug": Settings}
    one_step = False
    droppable = False
    averageable = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.sums = torch.zeros(2, device=self.device)
        """Summed over the steps of the last epoch, of audio and visual."""

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Both modalities are read out through their classifiers."""
        super().check(config)
        if config.model.readout != "split":
            raise UserError(f"{config.method} has classifiers of its own; set model.readout=split")

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """The fusion is the classifiers: as many as can come, beside the first."""
        from raygap.models.heads import BoostedHeads

        sizes, share = network.sizes, config.aug.audio_share
        network.fusion = BoostedHeads(sizes["audio"], sizes["visual"], network.classes, PERIODS + 2, share)

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """A classifier for the modality that was behind in the last epoch, when it is time."""
        config, done = self.config, epoch - self.config.warmup.epochs
        length = config.epochs - config.warmup.epochs - config.purify.epochs
        if done and (done == 1 or done % max(length // PERIODS, 1) == 0):
            audio, visual = self.sums.tolist()
            ratio = audio / max(visual, 1e-12)
            behind = "audio" if ratio < 1 - MARGIN else "visual" if ratio > 1 + MARGIN else None
            if behind and network.fusion.used[behind] < PERIODS + 2:
                network.fusion.used[behind] += 1
        self.sums = torch.zeros_like(self.sums)
        for name, count in network.fusion.used.items():
            self.note(f"aug_classifiers_{name}", torch.tensor(float(count)))

    def train_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """The two updates; the outputs are those before the first."""
        with autocast():
            outputs = self.outputs(network, step)
        terms = {}
        for name, features in (("audio", outputs.audio_features), ("visual", outputs.visual_features)):
            with autocast():
                logits = network.fusion.logits(name, features)
            terms[name] = boosted(logits, step.labels, self.config.aug.residual, self.cross_entropy)
            optimizer.zero_grad(set_to_none=True)
            self.backward(network, outputs, {name: step.factor * terms[name]}, step)
            optimizer.step()
        scores = [true_class_score(logits, step.labels) for logits in (outputs.audio, outputs.visual)]
        self.sums += self.batch_mean(torch.stack(scores), step)
        return outputs, terms

    def state_dict(self) -> dict[str, Any]:
        """Adds the last epoch's scores."""
        return {**super().state_dict(), "scores": self.sums.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.sums = state["scores"].to(self.device)


def boosted(logits: Tensor, labels: Tensor, residual: float, cost: Cost = cross_entropy) -> Tensor:
    """The loss of a modality: logits (classifiers, B, C), the newest last, and labels (B,), in float32."""
    logits = logits.float()
    whole = cost(logits.sum(0), labels)
    if len(logits) == 1:
        return whole.mean()
    before, newest = logits[:-1].sum(0), cost(logits[-1], labels)
    known = true_class_score(before.detach(), labels)
    return (whole + cost(before, labels) + (1 - residual * known) * newest).mean()
