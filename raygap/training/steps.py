"""The step: what a method takes for its optimiser. Whatever a configuration adds to a step of the weights stands here.

Gradients of `optimizer.accumulate` batches are averaged over their clips and then clipped to `optimizer.clip_norm`. A
method changes its gradients before (as OGM-GE does); what it leaves in the weights is what is added up and clipped.
With fp16 losses are multiplied by a scale, and gradients divided by it before they are clipped; a step whose gradients
overflow is left out (torch's GradScaler). After each step the moving average follows: a_1 = w_1,
a_t = ema * a_(t-1) + (1 - ema) * w_t.
"""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raygap.config import MODALITIES, TrialConfig
from raygap.training.optimizers import make_optimizer
from raygap.training.stages import learning_rate


class Stepper:
    """Moves a network's weights by the gradients that a method leaves in them, as a configuration says.

    All workers hold the same summed gradients, and so take the same step.
    """

    def __init__(self, config: TrialConfig, network: torch.nn.Module) -> None:
        factors = {f"{modality}_encoder": getattr(config.model, modality).lr_factor for modality in MODALITIES}
        self.optimizer = make_optimizer(config.optimizer, network, factors)
        self.config, self.network = config, network
        device = next(network.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
        self.one = torch.ones((), device=device)
        self.average: AveragedModel | None = None
        if decay := config.optimizer.ema:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.sums: dict[torch.nn.Parameter, torch.Tensor] = {}
        """Gradients of the batches of this step so far, each times its clips."""
        self.clips, self.summed, self.due = 1, 0, True

    def begin(self, epoch: int, number: int, batches: int, clips: int) -> None:
        """Before a batch, the `number`th of an epoch's `batches`, of `clips` clips over all workers."""
        settings = self.config.optimizer
        rate = learning_rate(settings, self.config.epochs, epoch, (number + 1) / batches)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        self.clips = clips
        # What an epoch leaves over is a step too, so that no gradient outlives it.
        self.due = (number + 1) % settings.accumulate == 0 or number + 1 == batches

    @property
    def loss_scale(self) -> torch.Tensor | float:
        """What a loss is to be multiplied by before its gradients are taken."""
        return self.scaler.scale(self.one) if self.scaler.is_enabled() else 1.0

    @property
    def state(self) -> Any:
        """What the optimiser remembers of each weight; a method may clear it."""
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Take the step, or where it has more batches add this one's gradients to it."""
        settings = self.config.optimizer
        if settings.accumulate > 1:
            self._add_up()
            if not self.due:
                return
            self._average()
        self.scaler.unscale_(self.optimizer)  # without fp16 these do nothing but the optimiser's step
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.network)

    def _add_up(self) -> None:
        self.summed += self.clips
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                share = parameter.grad * self.clips
                self.sums[parameter] = self.sums[parameter] + share if parameter in self.sums else share

    def _average(self) -> None:
        for parameter, total in self.sums.items():
            parameter.grad = total / self.summed
        self.sums, self.summed = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch depends on."""
        average = self.average and self.average.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "average": average, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
