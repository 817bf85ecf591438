"""DUS, data-aware unimodal sampling: how many clips each modality draws in the next step, on top of another method.

Batch score s_m = mean over the batch of p_m; cumulative score S_m(t) = ((t - 1) S_m(t - 1) + s_m(t)) / t. The
discrepancy S_audio - S_visual sets the draw, by a heuristic (the dominant modality draws fewer, bounded below) or by a
small PPO policy (Schulman et al., 2017; state: both cumulative scores, the last draws, progress; action: a discrete
draw ratio; reward: rise of the fused score, less the discrepancy). What that leaves open, and is chosen here:

* The fused loss always has the whole batch. A modality's unimodal loss has the clips that it drew, over the batch's
  size, so that a clip that is not drawn teaches that modality nothing in this step.
* A clip is drawn where its own random number of the epoch lies below the ratio: the draw does not depend on workers.
* Heuristic: the dominant modality's ratio is max(floor, 1 - strength * (S_dominant - S_other) / S_dominant).
* PPO: the actions hold one modality at 1 and the other at one of RATIOS; it learns after every HORIZON steps. It reads
  three numbers back from the device in each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from raygap.config import LATER, Section, acts_when
from raygap.lazy import torch
from raygap.rng import generator

if TYPE_CHECKING:
    from torch import Tensor

    from raygap.config import TrialConfig


class DusSettings(Section):
    """Data-aware unimodal sampling, on top of a method with unimodal losses: fewer clips for the modality ahead."""

    kind: Literal["none", "heuristic", "ppo"] = Field("none", json_schema_extra=LATER)
    """Off, by the ratio of the cumulative scores, or by a policy that learns what raises the fused score."""
    strength: float = Field(1.0, ge=0, le=10, json_schema_extra=LATER | acts_when({"dus.kind": "heuristic"}))
    """heuristic: how much fewer clips the dominant modality draws for its lead."""
    floor: float = Field(0.25, gt=0, le=1, json_schema_extra=LATER | acts_when({"dus.kind": "heuristic"}))
    """heuristic: share of the batch that a modality draws at least."""

    @property
    def in_use(self) -> bool:
        """Unless it is off."""
        return self.kind != "none"


def heuristic(cumulative: Tensor, strength: float, floor: float) -> Tensor:
    """Draw ratios (2,) from the cumulative scores (2,) of audio and visual."""
    excess = (cumulative - cumulative.flip(0)) / cumulative.clamp_min(1e-12)
    return torch.where(excess > 0, (1 - strength * excess).clamp_min(floor), 1.0)


class Dus:
    """The draw of the next step, and what it follows from."""

    def __init__(self, config: TrialConfig, clips: int, device: torch.device) -> None:
        self.config, self.clips, self.device = config, clips, device
        self.steps = 0
        self.cumulative = torch.zeros(2, device=device)
        self.ratios = torch.ones(2, device=device)
        self.drawn_in = -1
        self.policy = None
        if config.dus.kind == "ppo":
            from raygap.methods.ppo import Ppo

            self.policy = Ppo(config)

    def mask(self, modality: str, index: Tensor, epoch: int) -> Tensor:
        """1.0 for the clips (B,) that the modality draws, else 0.0."""
        if self.drawn_in != epoch:
            numbers = [generator(self.config.seed, f"dus {m}", epoch).random(self.clips) for m in ("audio", "visual")]
            self.numbers = torch.as_tensor(np.stack(numbers), dtype=torch.float32, device=self.device)
            self.drawn_in = epoch
        place = ("audio", "visual").index(modality)
        return (self.numbers[place, index] < self.ratios[place]).float()

    def observe(self, scores: Tensor, epoch: int, number: int) -> None:
        """Take the batch's mean scores (3,) of audio, visual and fused, and set the next step's ratios."""
        self.steps += 1
        self.cumulative += (scores[:2] - self.cumulative) / self.steps
        if self.policy is None:
            self.ratios = heuristic(self.cumulative, self.config.dus.strength, self.config.dus.floor)
        else:
            seen = self.cumulative.cpu(), self.ratios.cpu()
            self.ratios = self.policy.act(float(scores[2]), *seen, epoch, number).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        state: dict[str, Any] = {"steps": self.steps, "cumulative": self.cumulative.cpu(), "ratios": self.ratios.cpu()}
        return state | (self.policy.state_dict() if self.policy else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.steps = state["steps"]
        self.cumulative, self.ratios = state["cumulative"].to(self.device), state["ratios"].to(self.device)
        if self.policy:
            self.policy.load_state_dict(state)
