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

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raygap.config import TrialConfig
from raygap.rng import generator

RATIOS = (0.75, 0.5, 0.25)
ACTIONS = torch.tensor([(1.0, 1.0), *((r, 1.0) for r in RATIOS), *((1.0, r) for r in RATIOS)])
"""(7, 2): share of the batch that audio and visual draw."""
HORIZON = 32
PASSES, LEARNING_RATE, CLIP, DISCOUNT, TRACE = 4, 3e-3, 0.2, 0.95, 0.9
"""Of PPO: passes over a horizon, Adam's rate, the clipped ratio, gamma, and lambda of the advantage estimate."""


def heuristic(cumulative: Tensor, strength: float, floor: float) -> Tensor:
    """Draw ratios (2,) from the cumulative scores (2,) of audio and visual."""
    excess = (cumulative - cumulative.flip(0)) / cumulative.clamp_min(1e-12)
    return torch.where(excess > 0, (1 - strength * excess).clamp_min(floor), 1.0)


def advantages(rewards: Tensor, values: Tensor) -> Tensor:
    """Generalised advantage estimates (T,) from rewards (T,) and values (T + 1,) (Schulman et al., 2016, eq. 16)."""
    errors = rewards + DISCOUNT * values[1:] - values[:-1]
    found, running = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        running = errors[t] + DISCOUNT * TRACE * running
        found[t] = running
    return found


class Policy(nn.Module):
    """State (5,) to the logits of the actions and the state's value."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, len(ACTIONS)), nn.Linear(32, 1)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """(T, 5) -> (T, actions), (T,)."""
        features = self.body(states)
        return self.actor(features), self.critic(features)[:, 0]


class Dus:
    """The draw of the next step, and what it follows from."""

    def __init__(self, config: TrialConfig, clips: int, device: torch.device) -> None:
        self.config, self.clips, self.device = config, clips, device
        self.steps = 0
        self.cumulative = torch.zeros(2, device=device)
        self.ratios = torch.ones(2, device=device)
        self.drawn_in = -1
        self.policy: Policy | None = None
        if config.dus.kind == "ppo":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.policy = Policy()
            self.adam = torch.optim.Adam(self.policy.parameters(), LEARNING_RATE)
            self.fused = -1.0
            self.memory: dict[str, list] = {"states": [], "actions": [], "chances": [], "rewards": []}

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
            self._act(float(scores[2]), epoch, number)

    def _act(self, fused: float, epoch: int, number: int) -> None:
        cumulative = self.cumulative.cpu()
        if self.memory["actions"]:
            self.memory["rewards"].append(fused - self.fused - abs(float(cumulative[0] - cumulative[1])))
        self.fused = fused
        state = torch.cat((cumulative, self.ratios.cpu(), torch.tensor([epoch / self.config.epochs])))
        if len(self.memory["rewards"]) == HORIZON:
            self._learn(state)
        with torch.no_grad():
            logits, _ = self.policy(state[None])
        chances = logits[0].double().softmax(0)
        draw = generator(self.config.seed, "dus action", epoch, number).random()
        action = min(int((chances.cumsum(0) < draw).sum()), len(ACTIONS) - 1)
        self.memory["states"].append(state)
        self.memory["actions"].append(action)
        self.memory["chances"].append(float(chances[action].log()))
        self.ratios = ACTIONS[action].to(self.device)

    def _learn(self, last: Tensor) -> None:
        states, actions = torch.stack(self.memory["states"]), torch.tensor(self.memory["actions"])
        before, rewards = torch.tensor(self.memory["chances"]), torch.tensor(self.memory["rewards"])
        with torch.no_grad():
            values = self.policy(torch.cat((states, last[None])))[1]
        gains = advantages(rewards, values)
        returns = gains + values[:-1]
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        for _ in range(PASSES):
            logits, value = self.policy(states)
            log_chances = logits.log_softmax(1)
            ratio = (log_chances.gather(1, actions[:, None])[:, 0] - before).exp()
            surrogate = torch.minimum(ratio * gains, ratio.clamp(1 - CLIP, 1 + CLIP) * gains).mean()
            entropy = -(log_chances.exp() * log_chances).sum(1).mean()
            loss = -surrogate + 0.5 * (value - returns).square().mean() - 0.01 * entropy
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
        self.memory = {name: [] for name in self.memory}

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        state: dict[str, Any] = {"steps": self.steps, "cumulative": self.cumulative.cpu(), "ratios": self.ratios.cpu()}
        if self.policy is not None:
            state |= {"policy": self.policy.state_dict(), "adam": self.adam.state_dict(), "fused": self.fused}
            state["memory"] = {name: list(values) for name, values in self.memory.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.steps = state["steps"]
        self.cumulative, self.ratios = state["cumulative"].to(self.device), state["ratios"].to(self.device)
        if self.policy is not None:
            self.policy.load_state_dict(state["policy"])
            self.adam.load_state_dict(state["adam"])
            self.fused = state["fused"]
            self.memory = {name: [_on_cpu(value) for value in values] for name, values in state["memory"].items()}


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
