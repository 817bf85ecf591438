"""One training run in one process: warm-up, adaptive stage, purification, one result an epoch.

Nothing here knows of Ray. Every random draw follows from (seed, epoch, clip, purpose), so a run that was stopped and
resumed equals one that was not.
"""

from typing import Any

import numpy as np
import torch

from raygap.config import TrialConfig
from raygap.data.batches import batches, epoch_order
from raygap.data.store import Store
from raygap.errors import TrainingDiverged
from raygap.imbalance.gap import true_class_score
from raygap.imbalance.ledger import Ledger
from raygap.methods import find_method
from raygap.methods.base import Method
from raygap.models.network import make_network
from raygap.rng import generator
from raygap.training.evaluation import evaluate, true_class_scores
from raygap.training.precision import autocast, pick_device
from raygap.training.stages import learning_rate, purified, refit_due, stage_of

Metrics = dict[str, Any]
GAP_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Trainer:
    """The state of a run and its next epoch.

    `method` replaces the class that the configuration names; benchmarks use it to train with known posteriors.
    """

    def __init__(self, config: TrialConfig, store: Store, method: type[Method] | None = None) -> None:
        torch.set_num_threads(config.compute.threads)
        self.config, self.store, self.device = config, store, pick_device()
        self.rows = store.rows("train")
        self.labels = store.labels[self.rows]
        self.network = make_network(config.model, len(store.class_names), config.seed).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        self.optimizer = _make_optimizer(config, self.network)
        self.method = (method or find_method(config.method))(config, self.labels, self.device)
        self.ledger = Ledger(len(self.rows), config.scores.beta)
        self.epoch = 0
        self.fitted = False
        self.kept = np.arange(len(self.rows))
        self.after_warmup: dict[str, np.ndarray] = {}
        self.best_epoch, self.best_accuracy = -1, -1.0

    @property
    def finished(self) -> bool:
        """All epochs are trained."""
        return self.epoch >= self.config.epochs

    def train_epoch(self) -> Metrics:
        """Train the next epoch and validate. Raises TrainingDiverged if the loss was NaN or infinite."""
        config, stage = self.config, stage_of(self.config, self.epoch)
        metrics: Metrics = {"epoch": self.epoch + 1, "stage": stage}
        metrics |= self._separate(stage)
        metrics["learning_rate"] = learning_rate(config.optimizer, config.epochs, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = metrics["learning_rate"]
        metrics |= self._train_pass(stage)
        metrics |= self._gap_metrics()
        metrics |= evaluate(self.network, self.store, "val", config, self.device)
        self.epoch += 1
        self._note_warmup()
        self._note_best(metrics)
        return metrics

    def _separate(self, stage: str) -> Metrics:
        guided = self.method.guided or stage == "purification"
        if not (guided and refit_due(self.config, self.epoch, self.fitted)):
            return {}
        if self.config.gap.source == "fresh":
            scores = true_class_scores(self.network, self.store, self.rows, self.config, self.device)
            self.ledger.record(np.arange(len(self.rows)), *scores)
        metrics = self.method.refit(self.ledger)
        self.fitted |= not metrics["mixture_degenerate"]
        if stage == "purification":
            draw = generator(self.config.seed, "purification")
            self.kept = purified(self.config.purify, self.ledger.balanced, self.labels, draw)
            metrics["purify_clips"] = len(self.kept)
        return metrics

    def _train_pass(self, stage: str) -> Metrics:
        config, device = self.config, self.device
        clips = self.kept if stage == "purification" else np.arange(len(self.rows))
        order = clips[epoch_order(len(clips), config.seed, self.epoch)]
        scores = torch.full((2, len(self.rows)), torch.nan, device=device)
        totals: dict[str, torch.Tensor] = {}
        correct = torch.zeros((), device=device)
        self.network.train()
        for batch in batches(
            self.store,
            self.rows,
            batch_size=config.optimizer.batch_size,
            order=order,
            device=device,
            augment=config.augment,
            seed=config.seed,
            epoch=self.epoch,
        ):
            with autocast(config, device):
                outputs = self.network(batch.audio, batch.visual, probe=self.method.probe_heads)
            if stage == "adaptive":
                terms = self.method.adaptive_terms(outputs, batch.labels, batch.index)
            else:
                terms = self.method.plain_terms(outputs, batch.labels)
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(tuple(terms.values())).sum().backward()
            self.optimizer.step()
            # Everything below stays on the device: no step waits for the host.
            with torch.no_grad():
                scores[0, batch.index] = true_class_score(outputs.audio, batch.labels)
                scores[1, batch.index] = true_class_score(outputs.visual, batch.labels)
                correct += (outputs.fused.argmax(1) == batch.labels).sum()
                for name, term in terms.items():
                    totals[name] = totals.get(name, 0) + term.detach() * len(batch.labels)
        metrics = {f"train_loss_{name}": float(total) / len(order) for name, total in totals.items()}
        metrics["train_loss"] = sum(metrics.values())
        metrics["train_accuracy"] = float(correct) / len(order)
        if not np.isfinite(metrics["train_loss"]):
            raise TrainingDiverged(f"the loss became {metrics['train_loss']} in epoch {self.epoch + 1}")
        audio, visual = scores.cpu().numpy()
        self.ledger.record(clips, audio[clips], visual[clips])
        return metrics

    def _gap_metrics(self) -> Metrics:
        gap = self.ledger.gap
        gap = gap[~np.isnan(gap)]
        if not len(gap):
            return {}
        quantiles = {f"gap_q{int(q * 100):02d}": float(np.quantile(gap, q)) for q in GAP_QUANTILES}
        return {"gap_mean": float(gap.mean()), "gap_absolute_mean": float(np.abs(gap).mean()), **quantiles}

    def _note_warmup(self) -> None:
        if self.epoch == self.config.warmup.epochs:
            self.after_warmup = {"audio": self.ledger.audio.copy(), "visual": self.ledger.visual.copy()}

    def _note_best(self, metrics: Metrics) -> None:
        # Warm-up epochs do not compete: they are the same for every method, and the search is about what follows.
        in_warmup = self.epoch <= self.config.warmup.epochs < self.config.epochs
        if self.config.select_epoch == "last" or in_warmup or metrics["val_accuracy"] > self.best_accuracy:
            self.best_epoch = self.epoch
            self.best_accuracy = -1.0 if in_warmup else metrics["val_accuracy"]
        metrics["best_epoch"] = self.best_epoch
        metrics["best_val_accuracy"] = metrics["val_accuracy"] if in_warmup else self.best_accuracy

    def state_dict(self) -> dict[str, Any]:
        """Everything the next epoch depends on."""
        return {
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "ledger": self.ledger.state_dict(),
            "fitted": self.fitted,
            "kept": self.kept,
            "after_warmup": self.after_warmup,
            "best": [self.best_epoch, self.best_accuracy],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])
        self.ledger.load_state_dict(state["ledger"])
        self.fitted, self.kept = state["fitted"], state["kept"]
        self.best_epoch, self.best_accuracy = state["best"]
        # The state may come from a trial whose warm-up was shorter or longer.
        self.after_warmup = state["after_warmup"] if self.epoch > self.config.warmup.epochs else {}
        self._note_warmup()


def _make_optimizer(config: TrialConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    settings = config.optimizer
    if settings.name == "adamw":
        return torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        network.parameters(), settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
