"""umt: encoders keep near those of unimodal teachers while the fused loss is trained.

Du, Teng, Li, Liu, Yuan, Wang, Yuan, Zhao: On Uni-Modal Feature Learning in Supervised Multi-Modal Learning, ICML 2023.

L = CE(fused) + weight * sum over the modalities of the mean squared distance between the features of the encoder and
those of its teacher, an encoder that was trained on that modality alone.

The teachers are trained where other methods warm up: CE(audio) + CE(visual), which reach one encoder each, are two
unimodal trainings side by side, and all umt trials with the same warm-up share them. With the first adaptive epoch the
two encoders become the teachers, frozen and in evaluation mode, and the network and its optimiser start anew from the
initial weights. With the split read-out the two trainings share a bias, with heads nothing. Separate heads are probes
afterwards. The paper tunes the weight a data set; 10 is BalanceBenchmark's. There is no purification: it would
repeat the warm-up's loss.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section
from raygap.errors import UserError
from raygap.lazy import torch
from raygap.methods.base import Method
from raygap.models.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig
    from raygap.methods.base import Autocast, Look, Optimizer, Step, Terms
    from raygap.models.network import Network


class Settings(Section):
    """What is set of umt."""

    weight: float = Field(10.0, ge=0, le=1000, json_schema_extra=LATER)
    """Weight of the distance to the teachers' features."""


@dataclass
class TaughtOutputs(Outputs):
    """A batch, and what the teachers make of it."""

    taught: Outputs


class Umt(Method):
    """CE(fused) and the distances to the teachers' features."""

    sections = {"umt": Settings}
    plain_unimodal = False
    starts_anew = True
    averageable = False
    teachers: Network | None = None
    """The network as the warm-up left it, frozen."""

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """There must be a warm-up, and nothing after the adaptive stage."""
        super().check(config)
        if not config.warmup.epochs:
            raise UserError(f"{config.method} trains its teachers in the warm-up; set warmup.epochs to 1 or more")
        if config.purify.epochs:
            raise UserError(f"{config.method} has no loss for purification; set purify.epochs=0")

    def plain_terms(self, outputs: Outputs, labels: Tensor) -> Terms:
        """The teachers' own losses."""
        return {
            "audio": self.cross_entropy(outputs.audio, labels).mean(),
            "visual": self.cross_entropy(outputs.visual, labels).mean(),
        }

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """The first time, the encoders become teachers, and the network starts anew."""
        if epoch > self.config.warmup.epochs:
            return
        self._teach(copy.deepcopy(network))
        network.load_state_dict(self._fresh(network.classes, network.channels).state_dict())

    def _fresh(self, classes: int, channels: Mapping[str, int], weights: bool = True) -> Network:
        from raygap.models.network import make_network

        model, seed = self.config.model, self.config.seed
        return make_network(model, classes, seed, lambda new: self.extend(new, self.config), channels, weights)

    def _teach(self, teachers: Network) -> None:
        modules: Any = teachers  # torch's stub of `to` knows either argument alone
        modules.to(self.device, memory_format=torch.channels_last)
        self.teachers = teachers.eval().requires_grad_(False)

    def outputs(self, network: Network, step: Step) -> TaughtOutputs:
        """Adds the teachers'."""
        outputs = network(step.audio, step.visual, probe=True)
        return TaughtOutputs(**vars(outputs), taught=self.teachers(step.audio, step.visual))

    def adaptive_terms(self, outputs: TaughtOutputs, labels: Tensor, index: Tensor) -> Terms:
        """The losses of the batch, and the probes' own where there are separate heads."""
        weight, taught = self.config.umt.weight, outputs.taught
        terms = {
            "fusion": self.cross_entropy(outputs.fused, labels).mean(),
            "distance_audio": weight * squared_distance(outputs.audio_features, taught.audio_features),
            "distance_visual": weight * squared_distance(outputs.visual_features, taught.visual_features),
        }
        return terms | (self.plain_terms(outputs, labels) if self.config.model.readout == "heads" else {})

    def train_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """The first step's optimiser knows nothing of the teachers' training."""
        if step.epoch == self.config.warmup.epochs and step.number == 0:
            optimizer.state.clear()
        return super().train_step(network, optimizer, step, autocast)

    def state_dict(self) -> dict[str, Any]:
        """Adds the teachers."""
        if self.teachers is None:
            return {**super().state_dict(), "teachers": None}
        inputs = {"classes": self.teachers.classes, "channels": dict(self.teachers.channels)}
        return {**super().state_dict(), "teachers": self.teachers.state_dict(), **inputs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        if state["teachers"]:
            self._teach(self._fresh(state["classes"], state["channels"], weights=False))
            self.teachers.load_state_dict(state["teachers"])


def squared_distance(features: Tensor, taught: Tensor) -> Tensor:
    """Mean over clips and features, in float32."""
    return (features.float() - taught.float()).square().mean()
