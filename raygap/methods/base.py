"""What a method is: hooks around the steps of training, and how it separates balanced from imbalanced clips."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from raygap.config import MODALITIES
from raygap.errors import UserError
from raygap.imbalance.controls import controlled, within_class_permutation
from raygap.imbalance.gap import mixture_values, true_class_score
from raygap.imbalance.mixture import DegenerateMixture, GapMixture, bic_one_gaussian, fit_gap_mixture
from raygap.lazy import torch
from raygap.methods.dus import Dus, DusSettings
from raygap.methods.losses import class_weights, cross_entropy
from raygap.workers import Workers

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import Section, TrialConfig
    from raygap.imbalance.ledger import Ledger
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs

Autocast = Callable[[], AbstractContextManager[Any]]
Terms = dict[str, "Tensor"]
"""Loss terms of a batch by name, each a weighted scalar; the loss is their sum."""


@dataclass
class Mixed:
    """How the clips of a step are mixed with others, by modality: see augment.mixup."""

    share: dict[str, Tensor]
    """(B,), in [0.5, 1]: of the clip itself."""
    labels: dict[str, Tensor]
    """(B,): of the other clip."""


@dataclass
class Step:
    """One step of an epoch, as this worker sees it: B clips on the device."""

    audio: Tensor
    """(B, 1, F, S)."""
    visual: Tensor
    """(B, T, 3, H, W)."""
    labels: Tensor
    """(B,)."""
    index: Tensor
    """(B,): positions of the clips among the training clips."""
    weight: float
    """Share of the whole batch that these clips stand for (Workers.share)."""
    epoch: int
    """From 0."""
    number: int
    """Of the step within the epoch, from 0."""
    places: np.ndarray
    """(B,): where each clip stands in what `draw` gave for this epoch."""
    mixed: Mixed | None = None
    """Where clips are mixed: `labels` and `index` are those of the clip with the larger share."""
    loss_scale: Tensor | float = 1.0
    """What losses are multiplied by before gradients are taken of them (fp16); who moves the weights divides by it."""

    @property
    def factor(self) -> Tensor | float:
        """Of a loss, so that gradients add up over the workers, and to what the optimiser expects."""
        return self.weight * self.loss_scale


def layer_weights(encoder: torch.nn.Module) -> list[Tensor]:
    """Of all layers, whatever they are, without biases and normalisation; frozen ones have no gradient."""
    return [parameter for parameter in encoder.parameters() if parameter.ndim > 1]


class Optimizer(Protocol):
    """What moves the weights: any of torch's optimisers, or raygap's, which adds to a step what is configured."""

    @property
    def state(self) -> Any:
        """What it remembers of each weight."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""

    def step(self) -> None:
        """Move the weights by their gradients; once a batch, where `one_step` is so."""


class Look(Protocol):
    """Outputs of training clips, without augmentation, in evaluation mode, on the CPU; all workers call it together."""

    def __call__(self, clips: np.ndarray | None = None) -> Outputs:
        """Of the clips at these positions, in that order, or of all; costs a pass over them."""


class Method:
    """Base of the methods: hooks around the draw, the outputs, the loss and the gradients of the adaptive stage.

    A subclass gives at least `adaptive_terms`. Warm-up and purification know of a method its `plain_terms`, its
    `probe_heads`, its modules (`extend`) and its `predict` alone, and so does the key of a shared warm-up.
    `labels` are those of the training clips, (N,).
    """

    sections: ClassVar[dict[str, type[Section]]] = {}
    """What a trial's configuration has for this method, beside what every trial has, by name; read as config.NAME."""
    guided = False
    """The adaptive loss uses the posteriors, so they are refitted every mixture.refit_every adaptive epochs."""
    probe_heads = False
    """Separate heads only read the features; their losses do not reach the encoders."""
    own_separator = False
    """It tells balanced clips by something else than the mixture over the gaps."""
    plain_unimodal = True
    """Its plain_terms weigh unimodal losses by warmup.unimodal_weight."""
    unimodal_losses = False
    """It has a loss a modality whose clips DUS can draw: `weighted` gets them with their modality's name."""
    one_step = True
    """It takes one step a batch, so that the gradients of several can make one (optimizer.accumulate)."""
    starts_anew = False
    """Its network does after the warm-up, which is another's training: of teachers."""
    averageable = True
    """Its weights go on from the first step to the last, so that their average means something (optimizer.ema)."""
    droppable = True
    """Its fused loss is of both modalities' features, so that training can leave one out of it (augment.drop_*)."""
    scale_free = True
    """What it does to gradients asks not how large they are, so that fp16 can scale them."""
    mixes = False
    """Its losses are self.cross_entropy alone, which knows of mixed labels. A method's own word, not its base class's:
    what it adds may ask for the label, or the posterior, of one clip."""
    per_clip_labels = True
    """What each clip's labels cost is self.cross_entropy alone, so that labels.* can change it."""

    def __init__(
        self, config: TrialConfig, labels: np.ndarray, device: torch.device, workers: Workers | None = None
    ) -> None:
        self.config = config
        self.labels = labels
        self.device = device
        self.workers = workers or Workers()
        self.mixture: GapMixture | None = None
        self.weights: dict[str, Tensor] = {}
        self.noted: dict[str, list[Tensor]] = {}
        drawn = self.unimodal_losses and config.dus.kind != "none"
        self.dus = Dus(config, len(labels), device) if drawn else None
        self.mixed: Mixed | None = None
        """Of the step that is trained now."""
        self.class_weights: Tensor | None = None
        if config.labels.class_weights:
            self.class_weights = torch.from_numpy(class_weights(labels, config.labels.class_weights)).to(device)
        self.epoch = 0

    @classmethod
    def all_sections(cls) -> dict[str, type[Section]]:
        """`sections`, and that of DUS where it may draw."""
        return cls.sections | ({"dus": DusSettings} if cls.unimodal_losses else {})

    @classmethod
    def score_memory(cls, config: TrialConfig) -> float:
        """Memory of the ledger's averaged scores."""
        return 0.8

    @classmethod
    def check(cls, config: TrialConfig) -> None:
        """Raise UserError if the method cannot work with this configuration (a read-out or fusion it needs).

        Nor does any with lone clips in batch normalisation: what they are normalised by is themselves.
        """
        cls._check_labels(config)
        if config.optimizer.accumulate > 1 and not cls.one_step:
            raise UserError(
                f"optimizer.accumulate: {config.method} takes two steps a batch; set optimizer.accumulate=1"
            )
        if config.compute.precision == "fp16" and not cls.scale_free:
            raise UserError(
                f"compute.precision: {config.method} looks at the size of gradients, which fp16 scales; "
                "set compute.precision=bf16"
            )
        for name in ("drop_audio", "drop_visual"):
            if getattr(config.augment, name) and not cls.droppable:
                raise UserError(
                    f"augment.{name}: {config.method} has no fused loss of both modalities of each clip; "
                    f"set augment.{name}=0"
                )
        if config.optimizer.ema and not cls.averageable:
            raise UserError(f"optimizer.ema: {config.method} replaces weights while it trains; set optimizer.ema=0")
        norm, clips, workers = config.model.norm, config.optimizer.batch_size, config.compute.workers
        least = {"batch": 2 * workers, "sync_batch": 2, "group": 1}[norm]
        if clips < least:
            share = f" over {workers} workers" if norm == "batch" and workers > 1 else ""
            raise UserError(
                f"optimizer.batch_size = {clips}{share}: model.norm={norm} needs two clips or more in each batch"
                f"{' of a worker' if share else ''}; set optimizer.batch_size={least} or more, or model.norm=group"
            )

    @classmethod
    def _check_labels(cls, config: TrialConfig) -> None:
        for field in ("smoothing", "class_weights"):
            if getattr(config.labels, field) and not cls.per_clip_labels:
                raise UserError(
                    f"labels.{field}: {config.method} has no cross-entropy of each clip; set labels.{field}=0"
                )
        if config.augment.mixup:
            cls._check_mixup(config)

    @classmethod
    def _check_mixup(cls, config: TrialConfig) -> None:
        """Posteriors, and whatever else is found of a clip's own label, have no meaning for two clips in one."""
        why = ""
        if not vars(cls).get("mixes"):
            why = f"{config.method} needs the label, or the posterior, of one clip"
        elif cls.unimodal_losses and config.dus.kind != "none":
            why = f"dus.kind={config.dus.kind} goes by the scores of single clips"
        elif config.purify.epochs and config.gap.source != "fresh":
            why = "purification goes by the scores of single clips (purify.epochs=0, or gap.source=fresh)"
        elif config.augment.mixup_partner == "own" and not cls.droppable:
            why = f"{config.method} has one modality (augment.mixup_partner=shared)"
        if why:
            raise UserError(f"augment.mixup: {why}; set augment.mixup=0")

    @classmethod
    def equal_features(cls, config: TrialConfig) -> bool:
        """Whether it compares feature vectors of both modalities, or reads them by one layer: of equal length alone."""
        return False

    @classmethod
    def extend(cls, network: Network, config: TrialConfig) -> None:
        """Add modules to `network.extra`, or replace `network.fusion`; their weights follow from the seed too.

        A method gives its own, not its base class's: the key of a shared warm-up knows the function, not the class.
        """

    @classmethod
    def predict(cls, network: Network, audio: Tensor, visual: Tensor) -> Outputs:
        """Outputs whose `fused` is the method's answer, for validation, test and use."""
        outputs: Outputs = network(audio, visual)
        return outputs

    def begin_epoch(self, epoch: int, network: Network, look: Look) -> None:
        """Before each adaptive epoch (`epoch` counts from 0); may change the network's weights."""

    def end_epoch(self, epoch: int, metrics: dict[str, Any]) -> None:
        """After each adaptive epoch, with its training and validation metrics; may add to them."""
        metrics |= {name: float(torch.stack(values).mean()) for name, values in self.noted.items()}
        self.noted = {}

    def batch_mean(self, per_clip: Tensor, step: Step) -> Tensor:
        """Mean over the last dimension, the clips, of the whole batch over all workers; without gradient."""
        return self.workers.sum(step.weight * per_clip.detach().float().mean(-1))

    def note(self, name: str, value: Tensor) -> None:
        """Have the mean of a number over the epoch's steps among its metrics; the same number on all workers."""
        self.noted.setdefault(name, []).append(value.detach())

    def draw(self, clips: np.ndarray, epoch: int) -> np.ndarray:
        """Positions that an adaptive epoch trains on, from `clips`, which are shuffled already; may repeat some."""
        return clips

    def outputs(self, network: Network, step: Step) -> Outputs:
        """Outputs of a training step; runs under autocast."""
        outputs: Outputs = network(step.audio, step.visual, probe=self.probe_heads)
        return outputs

    def cross_entropy(self, logits: Tensor, labels: Tensor, head: str = "fused") -> Tensor:
        """What the labels cost each clip, (B,), of logits (B, C), in float32: the cross-entropy to labels smoothed by
        labels.smoothing, times the weight of the clip's class. A method's own weights of clips multiply it; either
        kind has mean 1 over the training clips, their product is not scaled again. Where clips are mixed, what the
        labels of both cost by their shares: of the `head`'s modality, or (fused) the mean over both.
        """
        own, mixed = self._cost(logits, labels), self.mixed
        if mixed is None:
            return own
        names = MODALITIES if head == "fused" else (head,)
        others = [self._cost(logits, mixed.labels[name]) for name in names]
        shares = [mixed.share[name] for name in names]
        costs = [share * own + (1 - share) * other for share, other in zip(shares, others, strict=True)]
        return torch.stack(costs).mean(0)

    def _cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        costs = cross_entropy(logits, labels, self.config.labels.smoothing)
        return costs if self.class_weights is None else self.class_weights[labels] * costs

    def plain_terms(self, outputs: Outputs, labels: Tensor) -> Terms:
        """Loss of warm-up and purification, the same for every clip."""
        weight = self.config.warmup.unimodal_weight
        return {
            "fusion": self.cross_entropy(outputs.fused, labels).mean(),
            "audio": weight * self.cross_entropy(outputs.audio, labels, "audio").mean(),
            "visual": weight * self.cross_entropy(outputs.visual, labels, "visual").mean(),
        }

    def adaptive_terms(self, outputs: Outputs, labels: Tensor, index: Tensor) -> Terms:
        """Loss of the adaptive stage; means over the clips given."""
        raise NotImplementedError(f"{type(self).__name__} has no adaptive_terms")

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Leave in each parameter's .grad the gradient of the loss over all workers' clips.

        `terms` are multiplied by step.factor, so that their gradients add up. What changes gradients does so after the
        sum.
        """
        torch.stack(tuple(terms.values())).sum().backward()
        self.workers.sum_gradients(network)

    def train_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """One adaptive step; returns outputs and terms (means over this worker's clips) for the records."""
        self.epoch, self.mixed = step.epoch, step.mixed
        with autocast():
            outputs = self.outputs(network, step)
        terms = self.adaptive_terms(outputs, step.labels, step.index)
        optimizer.zero_grad(set_to_none=True)
        self.backward(network, outputs, {name: step.factor * term for name, term in terms.items()}, step)
        optimizer.step()
        if self.dus:
            for name, ratio in zip(("audio", "visual"), self.dus.ratios, strict=True):
                self.note(f"dus_drawn_{name}", ratio)
            logits = (outputs.audio, outputs.visual, outputs.fused)
            scores = torch.stack([true_class_score(values, step.labels) for values in logits])
            self.dus.observe(self.batch_mean(scores, step), step.epoch, step.number)
        return outputs, terms

    def plain_step(
        self, network: Network, optimizer: Optimizer, step: Step, autocast: Autocast
    ) -> tuple[Outputs, Terms]:
        """One step of warm-up or purification; not for subclasses to change."""
        self.mixed = step.mixed
        with autocast():
            outputs = network(step.audio, step.visual, probe=self.probe_heads)
        terms = self.plain_terms(outputs, step.labels)
        optimizer.zero_grad(set_to_none=True)
        (step.factor * torch.stack(tuple(terms.values())).sum()).backward()
        self.workers.sum_gradients(network)
        optimizer.step()
        return outputs, terms

    def refit(self, ledger: Ledger) -> dict[str, Any]:
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
        return {**self.mixture_metrics(ledger), "imbalanced_share": float((imbalanced > 0.5).mean())}

    def fitted_scores(self, ledger: Ledger) -> tuple[np.ndarray, np.ndarray]:
        """Audio and visual scores (N,) that the mixture is fitted to (gap.source)."""
        if self.config.gap.source == "history":
            return ledger.blended(self.config.history.runs * self.config.epochs, self.config.mixture.refit_every > 0)
        return ledger.audio, ledger.visual

    def gap_values(self, ledger: Ledger) -> np.ndarray:
        """What the mixture over the gaps is fitted to, (N,)."""
        return mixture_values(*self.fitted_scores(ledger), self.config.gap.score)

    def imbalanced(self, ledger: Ledger) -> np.ndarray:
        """P(imbalanced), (N,), by the two-component mixture over the gaps. Raises DegenerateMixture."""
        values = self.gap_values(ledger)
        settings = self.config.mixture
        self.mixture = fit_gap_mixture(values, n_init=settings.n_init, seed=self.config.seed, start=self.mixture)
        return self.mixture.imbalanced(values)

    def mixture_metrics(self, ledger: Ledger) -> dict[str, float]:
        """The gap mixture in numbers; its BIC is no proof of two groups (imbalance/null_check.py)."""
        if self.mixture is None:
            return {}
        values = self.gap_values(ledger).astype(np.float64)
        (mean, mean_imbalanced), (variance, variance_imbalanced) = self.mixture.means, self.mixture.variances
        return {
            "mixture_mean_balanced": mean,
            "mixture_mean_imbalanced": mean_imbalanced,
            "mixture_variance_balanced": variance,
            "mixture_variance_imbalanced": variance_imbalanced,
            "mixture_weight_imbalanced": self.mixture.weights[1],
            "mixture_ashman_d": self.mixture.ashman_d,
            "mixture_bic_difference": bic_one_gaussian(values) - self.mixture.bic(values),
        }

    def control(self, posterior: np.ndarray) -> np.ndarray:
        """The posterior as the adaptive loss sees it: as fitted, or one of the controls (mixture.posterior)."""
        permutation = within_class_permutation(self.labels, self.config.seed)
        return controlled(posterior, self.config.mixture.posterior, self.labels, permutation)

    def set_weight(self, name: str, per_clip: np.ndarray) -> None:
        """Weights of a loss term over the ledger, scaled to mean 1 over the ledger (not the batch)."""
        scaled = per_clip / max(float(per_clip.mean()), 1e-12)
        self.weights[name] = torch.as_tensor(scaled, dtype=torch.float32, device=self.device)

    def weighted(self, name: str, per_clip: Tensor, index: Tensor, modality: str | None = None) -> Tensor:
        """Mean over the batch of weight * loss; weight 1 as long as nothing was fitted.

        `modality` names whose own loss it is: DUS may draw a part of the batch for it.
        """
        if self.dus and modality:
            per_clip = per_clip * self.dus.mask(modality, index, self.epoch)
        if name not in self.weights:
            return per_clip.mean()
        return (self.weights[name][index] * per_clip).mean()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and primitives."""
        return {
            "mixture": self.mixture.state_dict() if self.mixture else None,
            "weights": {name: weight.cpu() for name, weight in self.weights.items()},
            "dus": self.dus.state_dict() if self.dus else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.mixture = GapMixture.from_state_dict(state["mixture"]) if state["mixture"] else None
        self.weights = {name: weight.to(self.device) for name, weight in state["weights"].items()}
        if self.dus and state["dus"]:  # a shared warm-up comes from a trial that may have none
            self.dus.load_state_dict(state["dus"])
