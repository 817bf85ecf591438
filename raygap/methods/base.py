"""What a method is: a loss for each stage, and how it separates balanced from imbalanced clips."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raygap.config import TrialConfig
from raygap.imbalance.controls import controlled, within_class_permutation
from raygap.imbalance.gap import mixture_values
from raygap.imbalance.ledger import Ledger
from raygap.imbalance.mixture import DegenerateMixture, GapMixture, fit_gap_mixture
from raygap.methods.losses import cross_entropy
from raygap.models.network import Outputs

Terms = dict[str, Tensor]
"""Loss terms of a batch by name, each a weighted scalar; the loss is their sum."""


class Method:
    """Base of the methods. A subclass gives `adaptive_terms`, and `separate` if it separates in its own way.

    `labels` are those of the training clips, (N,); `index` in the calls below is the position of a batch's clips
    among them.
    """

    guided = False
    """The adaptive loss uses the posteriors, so they are refitted every mixture.refit_every adaptive epochs."""
    probe_heads = False
    """Separate heads only read the features; their losses do not reach the encoders."""

    def __init__(self, config: TrialConfig, labels: np.ndarray, device: torch.device) -> None:
        self.config = config
        self.labels = labels
        self.device = device
        self.mixture: GapMixture | None = None
        self.weights: dict[str, Tensor] = {}

    def plain_terms(self, outputs: Outputs, labels: Tensor) -> Terms:
        """Loss of warm-up and purification, the same for every clip."""
        weight = self.config.warmup.unimodal_weight
        return {
            "fusion": cross_entropy(outputs.fused, labels).mean(),
            "audio": weight * cross_entropy(outputs.audio, labels).mean(),
            "visual": weight * cross_entropy(outputs.visual, labels).mean(),
        }

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """Loss of the adaptive stage."""
        raise NotImplementedError

    def refit(self, ledger: Ledger) -> dict[str, float]:
        """Separate the clips anew and write P(balanced) into the ledger; returns metrics.

        A degenerate fit leaves the last good one in force (weight 1 everywhere if there is none) and is reported as
        mixture_degenerate = 1.
        """
        try:
            metrics = self.separate(ledger)
        except DegenerateMixture as reason:
            return {"mixture_degenerate": 1.0, "mixture_reason": str(reason)}
        return {"mixture_degenerate": 0.0, **metrics}

    def separate(self, ledger: Ledger) -> dict[str, float]:
        """Write P(balanced) into the ledger, and what follows from it into the weights. Raises DegenerateMixture."""
        imbalanced = self.imbalanced(ledger)
        ledger.balanced[:] = 1 - self.control(imbalanced)
        return {**self.mixture_metrics(), "imbalanced_share": float((imbalanced > 0.5).mean())}

    def imbalanced(self, ledger: Ledger) -> np.ndarray:
        """P(imbalanced), (N,), by the two-component mixture over the gaps. Raises DegenerateMixture."""
        values = mixture_values(ledger.audio, ledger.visual, self.config.gap.score)
        settings = self.config.mixture
        self.mixture = fit_gap_mixture(values, n_init=settings.n_init, seed=self.config.seed, start=self.mixture)
        return self.mixture.imbalanced(values)

    def mixture_metrics(self) -> dict[str, float]:
        """The gap mixture in numbers."""
        if self.mixture is None:
            return {}
        (mean, mean_imbalanced), (variance, variance_imbalanced) = self.mixture.means, self.mixture.variances
        return {
            "mixture_mean_balanced": mean,
            "mixture_mean_imbalanced": mean_imbalanced,
            "mixture_std_balanced": variance**0.5,
            "mixture_std_imbalanced": variance_imbalanced**0.5,
            "mixture_weight_imbalanced": self.mixture.weights[1],
            "mixture_ashman_d": self.mixture.ashman_d,
        }

    def control(self, posterior: np.ndarray) -> np.ndarray:
        """The posterior as the adaptive loss sees it: as fitted, or one of the controls (mixture.posterior)."""
        permutation = within_class_permutation(self.labels, self.config.seed)
        return controlled(posterior, self.config.mixture.posterior, self.labels, permutation)

    def set_weight(self, name: str, per_clip: np.ndarray) -> None:
        """Weights of a loss term over the ledger, scaled to mean 1 over the ledger (not the batch)."""
        scaled = per_clip / max(float(per_clip.mean()), 1e-12)
        self.weights[name] = torch.as_tensor(scaled, dtype=torch.float32, device=self.device)

    def weighted(self, name: str, per_clip: Tensor, index: Tensor) -> Tensor:
        """Mean over the batch of weight * loss; weight 1 as long as nothing was fitted."""
        if name not in self.weights:
            return per_clip.mean()
        return (self.weights[name][index] * per_clip).mean()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and primitives."""
        return {
            "mixture": self.mixture.state_dict() if self.mixture else None,
            "weights": {name: weight.cpu() for name, weight in self.weights.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.mixture = GapMixture.from_state_dict(state["mixture"]) if state["mixture"] else None
        self.weights = {name: weight.to(self.device) for name, weight in state["weights"].items()}
