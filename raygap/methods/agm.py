"""agm: adaptive gradient modulation, by what each modality contributes to the fused logits.

Li, Li, Hu, Lei, Li, Zhou: Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV 2023.

A modality's response is its Shapley value: phi_a = (f(a, v) - f(0, v) + f(a, 0)) / 2, likewise phi_v, so that
phi_a + phi_v = f(a, v). With s_m the batch's mean cross-entropy of phi_m, r_a = exp(s_v - s_a) says how far audio is
ahead; tau_a is the same of the running means of s over all steps before. The gradients of encoder m are multiplied by
kappa_m = exp(alpha * (tau_m - r_m)): less for a modality that is further ahead than it used to be.

As in its code: cross-entropies count as -log 1e-8 at most, the running means start at 0, tau - r is capped at 10, and
where an entry of the fusion's gradient exceeds `clip_norm` all gradients are clipped to that norm; the weights with
which a linear fusion reads modality m are multiplied by kappa_m too; responses are taken in evaluation mode, which
costs another pass through the encoders. The paper replaces an absent modality's input by zeros; we replace its
features, which costs no further pass and makes phi the split read-out where the fusion is linear. The code modulates in
its first 20 epochs unless told otherwise (for CREMA-D its author says to modulate in all of them), ours in all. It
works with every fusion; separate heads are probes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raygap.config import LATER, Section
from raygap.lazy import torch
from raygap.methods.joint import Joint
from raygap.methods.losses import cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.methods.base import Step, Terms
    from raygap.models.network import Network
    from raygap.models.outputs import Outputs


class Settings(Section):
    """What is set of agm."""

    alpha: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER)
    """How strongly a modality's gradients follow its share of the answer."""
    clip_norm: float = Field(1.0, gt=0, le=1e6, json_schema_extra=LATER)
    """Where an entry of the fusion's gradient exceeds this, all gradients are clipped to this norm."""


WORST = -math.log(1e-8)
CAP = 10.0


class Agm(Joint):
    """CE(fused), with the gradients of the encoders and of what reads them modulated."""

    sections = {"agm": Settings}
    scale_free = False
    steps = 0
    running: Tensor | None = None
    """(2,): means of s over the steps so far."""

    def backward(self, network: Network, outputs: Outputs, terms: Terms, step: Step) -> None:
        """Modulates the gradients of both modalities' weights, and clips all."""
        super().backward(network, outputs, terms, step)
        modes = {module: module.training for module in network.modules()}  # what is frozen is in evaluation mode
        network.eval()
        with torch.no_grad():
            calm = network(step.audio, step.visual)
        for module, training in modes.items():
            module.training = training
        responses = shapley(network, calm.audio_features, calm.visual_features)
        costs = torch.stack([cross_entropy(response, step.labels).clamp_max(WORST) for response in responses])
        scores = self.batch_mean(costs, step)
        if self.running is None:
            self.running = torch.zeros_like(scores)
        lead, usual = (values.flip(0) - values for values in (scores, self.running))
        factors = torch.exp(self.config.agm.alpha * (usual.exp() - lead.exp()).clamp_max(CAP))
        self.steps += 1
        self.running = self.running + (scores - self.running) / self.steps
        for name, factor in zip(("audio", "visual"), factors, strict=True):
            self.note(f"agm_factor_{name}", factor)
            for parameter in network.get_submodule(f"{name}_encoder").parameters():
                if parameter.grad is not None:
                    parameter.grad *= factor
        modulate_linear(network.fusion, factors)
        self._clip(network)

    def _clip(self, network: Network) -> None:
        limit = self.config.agm.clip_norm
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        largest = torch.stack([p.grad.abs().max() for p in network.fusion.parameters()]).max()
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        scale = torch.where(largest > limit, (limit / norm).clamp_max(1), 1.0)
        for gradient in gradients:
            gradient *= scale

    def state_dict(self) -> dict[str, Any]:
        """Adds the running means."""
        return {**super().state_dict(), "steps": self.steps, "running": self.running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        super().load_state_dict(state)
        self.steps, self.running = state["steps"], state["running"]
        if self.running is not None:
            self.running = self.running.to(self.device)


def modulate_linear(fusion: torch.nn.Module, factors: Tensor) -> None:
    """Multiply the gradients of the weights with which a linear fusion reads audio and visual by the factors (2,).

    Other fusions have no such weights.
    """
    from raygap.models.fusion import Concat, Sum

    if isinstance(fusion, Concat):
        for gradient, factor in zip(fusion.head.weight.grad.split(fusion.sizes, 1), factors, strict=True):
            gradient *= factor
    elif isinstance(fusion, Sum):
        for head, factor in zip((fusion.audio, fusion.visual), factors, strict=True):
            for parameter in head.parameters():
                parameter.grad *= factor


def shapley(network: Network, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """What each modality contributes to the fused logits, in float32; features (B, F) to (B, classes) each."""
    with torch.no_grad():
        audio, visual = audio.float(), visual.float()
        both = network.fusion(audio, visual)
        only_audio = network.fusion(audio, torch.zeros_like(visual))
        only_visual = network.fusion(torch.zeros_like(audio), visual)
        return (both - only_visual + only_audio) / 2, (both - only_audio + only_visual) / 2
