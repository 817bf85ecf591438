"""relearning: encoders that overfit go part of the way back to their initial weights, and learn again.

Wei, Li, Feng, Hu: Diagnosing and Re-learning for Balanced Multimodal Learning, ECCV 2024.

Every `period` of the adaptive stage, `times` times at most: for each modality, the features of training clips and of
held-out clips are each clustered (k-means, as many clusters as classes), and the purity of the clusters (share of the
clips that belong to their cluster's most frequent class) is compared. With w = tanh(strength * |purity training -
purity held-out|), the encoder's weights become w * initial + (1 - w) * current. CE(fused) is trained throughout.

The authors do so after 20, 40 and 60 of 90 epochs at a constant rate: encoders that are set back when the rate is
nearly gone cannot learn again. As in its code: features are scaled to [-1, 1] before k-means, all of the encoder's
parameters move (the statistics of normalisation layers do not), and held-out clips are of the training split. Unlike
it, the purities come from equally many clips without augmentation: purity rises by itself as clips get fewer. The
optimiser keeps its momentum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.lazy import torch
from raygap.methods.held_out import HoldsOut
from raygap.methods.joint import Joint

if TYPE_CHECKING:
    from raygap.config import TrialConfig
    from raygap.methods.base import Look
    from raygap.models.network import Network


class Settings(Section):
    """What is set of relearning."""

    strength: float = Field(3.0, ge=0, le=100, json_schema_extra=LATER | acts_when({"relearning.times": ">0"}))
    """How far encoders go back to their initial weights: by tanh(strength * difference of the purities)."""
    period: float = Field(0.22, gt=0, le=1, json_schema_extra=LATER | acts_when({"relearning.times": ">0"}))
    """Adaptive epochs between two re-initialisations, as a share of all of them; one epoch at least."""
    times: int = Field(3, ge=0, le=1000, json_schema_extra=LATER)
    """Re-initialisations at most."""
    held_out: float = Field(0.1, gt=0, lt=1, json_schema_extra=LATER)
    """Share of each class that the method does not train on, and diagnoses with."""


class Relearning(HoldsOut, Joint):
    """CE(fused), with encoders that are set back."""

    sections = {"relearning": Settings}
    done = 0
    """Re-initialisations so far."""

    @classmethod
    def held_share(cls, config: TrialConfig) -> float:
        """A field."""
        return config.relearning.held_out

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Diagnosis and setting back, when it is time."""
        settings = self.config.relearning
        every = max(round(settings.period * self.config.epochs), 1)  # it has no other stage
        due = epoch > 0 and epoch % every == 0 and self.done < settings.times
        if not due or not len(self.held):
            return
        self.done += 1
        from raygap.models.network import make_network

        model, channels = self.config.model, network.channels
        initial = make_network(model, network.classes, self.config.seed, channels=channels).to(self.device)
        # Clustered once: another machine's k-means could end elsewhere.
        outputs = look(np.concatenate((self.compared, self.held)))
        features = {"audio": outputs.audio_features, "visual": outputs.visual_features}
        shares = {name: self._set_back_share(values.numpy()) for name, values in features.items()}
        shares = self.workers.broadcast(shares)
        for name, share in shares.items():
            set_back(network.get_submodule(f"{name}_encoder"), initial.get_submodule(f"{name}_encoder"), share)
            self.note(f"relearning_set_back_{name}", torch.tensor(share))

    def _set_back_share(self, features: np.ndarray) -> float:
        clips = np.concatenate((self.compared, self.held))
        halves = slice(len(self.compared)), slice(len(self.compared), None)
        training, held = (purity(features[half], self.labels[clips[half]]) for half in halves)
        return float(np.tanh(self.config.relearning.strength * abs(training - held)))

    def state_dict(self) -> dict[str, Any]:
        """Adds how often it was done."""
        return {**super().state_dict(), "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.done = state["done"]


def purity(features: np.ndarray, labels: np.ndarray) -> float:
    """Of k-means clusters of features (N, F), as many as there are classes among the labels (N,)."""
    # Here, not above: scikit-learn takes seconds to import.
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import minmax_scale

    classes, codes = np.unique(labels, return_inverse=True)
    scaled = minmax_scale(features.astype(np.float64), (-1, 1))
    clusters = KMeans(len(classes), n_init=1, random_state=0).fit_predict(scaled)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (clusters, codes), 1)
    return float(counts.max(1).sum() / len(labels))


def set_back(encoder: torch.nn.Module, initial: torch.nn.Module, share: float) -> None:
    """Move all parameters this share of the way to the initial ones."""
    with torch.no_grad():
        for parameter, start in zip(encoder.parameters(), initial.parameters(), strict=True):
            parameter.lerp_(start, share)
