"""One training run in one process: warm-up, adaptive stage, purification, one result an epoch.

Nothing here knows of Ray. Every random draw follows from (seed, epoch, clip, purpose), so a run that was stopped and
resumed equals one that was not.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from raygap.config import TrialConfig
from raygap.data.batches import batches, class_order, cut_up, epoch_order
from raygap.data.clips import Split
from raygap.data.store import Store
from raygap.errors import TrainingDiverged, UserError
from raygap.imbalance.gap import gap_counts, mixture_values, true_class_score
from raygap.imbalance.ledger import Ledger
from raygap.methods import find_method
from raygap.methods.base import Method, Step
from raygap.models.encoders import MEDIA
from raygap.models.freezing import freeze
from raygap.models.network import Network, Outputs, make_network
from raygap.pace import Pace
from raygap.rng import generator
from raygap.training.augment import Augmentation, dropped
from raygap.training.evaluation import evaluate, predict
from raygap.training.precision import autocast, check_device, pick_device
from raygap.training.stages import learning_rate, purified, refit_due, stage_of
from raygap.training.steps import Stepper
from raygap.workers import Workers

Metrics = dict[str, Any]
GAP_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Trainer:
    """The state of a run and its next epoch.

    `method` replaces the class that the configuration names; benchmarks use it to train with known posteriors. Where
    torch.distributed is up, its processes train together, each a part of every batch, and all yield the same results.
    """

    def __init__(self, config: TrialConfig, store: Store, method: type[Method] | None = None) -> None:
        torch.set_num_threads(config.compute.threads)
        self.config, self.store, self.device, self.workers = config, store, pick_device(), Workers()
        self.rows = training_rows(config, store)
        self.labels = store.labels[self.rows]
        kind = method or find_method(config.method)
        kind.check(config)
        check_device(config, self.device)
        _check_classes(config, store, self.labels)
        self.network = trial_network(config, len(store.class_names), kind, store.channels).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        self.stepper = Stepper(config, self.network)
        self.method = kind(config, self.labels, self.device, self.workers)
        self.ledger = Ledger(len(self.rows), self.method.score_memory(config))
        self.epoch = 0
        self.fitted = False
        self.kept = np.arange(len(self.rows))
        self.after_warmup: dict[str, np.ndarray] = {}
        self.best_epoch, self.best_accuracy = -1, -1.0
        self.on_step: Callable[[], None] = lambda: None
        self.pace = Pace(config.epochs)

    @property
    def finished(self) -> bool:
        """All epochs are trained."""
        return self.epoch >= self.config.epochs

    @property
    def validated(self) -> Network:
        """The network that is validated, kept and tested: the one that is trained, or its moving average."""
        average: Any = self.stepper.average
        return average.module if average else self.network

    def train_epoch(self) -> Metrics:
        """Train the next epoch and validate. Raises TrainingDiverged if the loss was NaN or infinite."""
        config, stage = self.config, stage_of(self.config, self.epoch)
        metrics: Metrics = {"epoch": self.epoch + 1, "stage": stage}
        metrics |= self._separate(stage)
        metrics["learning_rate"] = learning_rate(config.optimizer, config.epochs, self.epoch)
        if stage == "adaptive":
            self.method.begin_epoch(self.epoch, self.network, self._look)
        with self._own_draws():
            metrics |= self._train_pass(stage)
        metrics |= self._gap_metrics()
        metrics |= self._validate()
        if stage == "adaptive":
            self.method.end_epoch(self.epoch, metrics)
        self.epoch += 1
        self._note_warmup()
        self._note_best(metrics)
        self.pace.end()
        return metrics

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """What modules of one's own draw by themselves, as dropout does, follows from the epoch and the worker too."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            draw = generator(self.config.seed, "modules", self.epoch, self.workers.rank)
            torch.manual_seed(int(draw.integers(2**62)))
            yield

    def _validate(self) -> Metrics:
        split: Split = "test" if self.config.protocol == "paper" else "val"
        metrics = evaluate(self.validated, self.store, split, self.config, self.device, type(self.method), self.workers)
        return {f"val_{name.removeprefix(f'{split}_')}": value for name, value in metrics.items()}

    def _predict(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        config, method = self.config, type(self.method)
        return predict(self.network, self.store, rows, config, self.device, method, self.workers)

    def _look(self, clips: np.ndarray | None = None) -> Outputs:
        return Outputs(**self._predict(self.rows if clips is None else self.rows[clips]))

    def _separate(self, stage: str) -> Metrics:
        guided = self.method.guided or stage == "purification"
        if not (guided and refit_due(self.config, self.epoch, self.fitted)):
            return {}
        if self.config.gap.source == "fresh":
            logits, labels = self._predict(self.rows), torch.from_numpy(self.labels)
            audio, visual = (true_class_score(logits[name], labels).numpy() for name in ("audio", "visual"))
            self.ledger.record(np.arange(len(self.rows)), audio, visual, average=False)
        score = self.config.gap.score
        counts = gap_counts(mixture_values(self.ledger.audio, self.ledger.visual, score), score)
        metrics = self._refit() | {"gap_counts": counts}
        self.fitted |= not metrics["mixture_degenerate"]
        if stage == "purification":
            draw = generator(self.config.seed, "purification")
            self.kept = purified(self.config.purify, self.ledger.balanced, self.labels, draw)
            metrics["purify_clips"] = len(self.kept)
        return metrics

    def _refit(self) -> Metrics:
        # Fitted once: sums in another order on another machine could end in another optimum.
        fit = None
        if self.workers.first:
            metrics = self.method.refit(self.ledger)
            fit = metrics, self.method.state_dict(), self.ledger.state_dict()
        fit = self.workers.broadcast(fit)
        if not self.workers.first:
            self.method.load_state_dict(fit[1])
            self.ledger.load_state_dict(fit[2])
        return fit[0]

    def _train_pass(self, stage: str) -> Metrics:
        config, device, method = self.config, self.device, self.method
        clips = self.kept if stage == "purification" else np.arange(len(self.rows))
        if config.labels.draw == "classes":
            order = clips[class_order(self.labels[clips], config.seed, self.epoch)]
        else:
            order = clips[epoch_order(len(clips), config.seed, self.epoch)]
        if stage == "adaptive":
            order = method.draw(order, self.epoch)
        train_step = method.train_step if stage == "adaptive" else method.plain_step
        scores = torch.zeros((3, len(self.rows)), device=device)  # sums of audio and visual, how often
        sums: dict[str, torch.Tensor] = {}
        correct = torch.zeros((), device=device)
        freeze(self.network, config.model, self.epoch)
        self.network.train()
        steps = len(cut_up(len(order), config.optimizer.batch_size))
        self.pace.begin(self.epoch + 1, steps)
        augmentation = Augmentation(config, self.store, self.epoch, len(order))
        for number, read in enumerate(
            batches(
                self.store,
                self.rows,
                batch_size=config.optimizer.batch_size,
                order=order,
                device=device,
                augment=config.augment,
                seed=config.seed,
                epoch=self.epoch,
                workers=self.workers,
                partners=augmentation.partners,
            )
        ):
            batch, mixed = augmentation(read)
            index, labels, weight = batch.index, batch.labels, batch.clips / batch.whole
            self.network.dropped = dropped(config, self.network, batch, self.epoch, number)
            inputs, scale = (batch.audio, batch.visual, labels, index), self.stepper.loss_scale
            step = Step(*inputs, weight, self.epoch, number, batch.places, mixed, scale)
            self.stepper.begin(self.epoch, number, steps, batch.whole)
            outputs, terms = train_step(self.network, self.stepper, step, lambda: autocast(config, device))
            # Everything below stays on the device: no step waits for the host.
            with torch.no_grad():
                if batch.clips:
                    both = [true_class_score(logits, labels) for logits in (outputs.audio, outputs.visual)]
                    given = torch.stack((*both, torch.ones_like(both[0])))
                    scores.index_add_(1, index[: batch.clips], given[:, : batch.clips])
                correct += (outputs.fused.argmax(1) == labels).sum() * (batch.clips / len(labels))
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + term.detach() * batch.clips
            self.on_step()
            self.pace.step()
        self.network.dropped = None
        self.workers.average_buffers(self.network)
        if self.stepper.average:
            self.workers.average_buffers(self.stepper.average)
        audio, visual, often = self.workers.sum(scores).cpu().numpy()
        totals = self.workers.sum(torch.stack([correct, *sums.values()])).tolist()
        metrics = {f"train_loss_{name}": total / len(order) for name, total in zip(sums, totals[1:], strict=True)}
        metrics["train_loss"] = sum(metrics.values())
        metrics["train_accuracy"] = totals[0] / len(order)
        if not np.isfinite(metrics["train_loss"]):
            raise TrainingDiverged(f"the loss became {metrics['train_loss']} in epoch {self.epoch + 1}")
        seen = np.flatnonzero(often)
        self.ledger.record(seen, audio[seen] / often[seen], visual[seen] / often[seen])
        return metrics

    def _gap_metrics(self) -> Metrics:
        gap = self.ledger.gap
        gap = gap[~np.isnan(gap)]
        if not len(gap):
            return {}
        quantiles = {f"gap_q{int(q * 100):02d}": float(np.quantile(gap, q)) for q in GAP_QUANTILES}
        scores = {f"score_{name}_mean": float(np.nanmean(getattr(self.ledger, name))) for name in ("audio", "visual")}
        means = {"gap_mean": float(gap.mean()), "gap_absolute_mean": float(np.abs(gap).mean())}
        return scores | means | quantiles

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
            **self.stepper.state_dict(),
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
        self.stepper.load_state_dict(state)
        if self.epoch > self.config.warmup.epochs:  # until then it has none, and the warm-up may be another method's
            self.method.load_state_dict(state["method"])
        self.ledger.load_state_dict(state["ledger"])
        self.fitted, self.kept = state["fitted"], state["kept"]
        self.best_epoch, self.best_accuracy = state["best"]
        # The state may come from a trial whose warm-up was shorter or longer.
        self.after_warmup = state["after_warmup"] if self.epoch > self.config.warmup.epochs else {}
        self._note_warmup()


def _check_classes(config: TrialConfig, store: Store, labels: np.ndarray) -> None:
    """Raise UserError where classes are to count alike of which one has no clip; no reader gives such a list."""
    empty = [name for label, name in enumerate(store.class_names) if label not in labels]
    if empty and (config.labels.class_weights or config.labels.draw == "classes"):
        field = "class_weights=0" if config.labels.class_weights else "draw=clips"
        raise UserError(f"{store.path}: no training clip of class {', '.join(empty)}; set labels.{field}")


def training_rows(config: TrialConfig, store: Store) -> np.ndarray:
    """Rows of the clips that a configuration trains on, ascending: train, and val under protocol paper."""
    if config.protocol == "paper":
        return np.sort(np.concatenate((store.rows("train"), store.rows("val"))))
    return store.rows("train")


def trial_network(
    config: TrialConfig,
    classes: int,
    method: type[Method],
    channels: Mapping[str, int] = MEDIA,
    weights: bool = True,
) -> Network:
    """The network of a trial, with its method's own modules, as it is before training; see make_network."""

    def extend(network: Network) -> None:
        if method.equal_features(config):
            _ = network.features  # raises if they are not
        method.extend(network, config)

    return make_network(config.model, classes, config.seed, extend, channels, weights)
