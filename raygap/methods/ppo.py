"""The small policy that may set DUS's draws, and how it learns: see dus.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raygap.rng import generator

if TYPE_CHECKING:
    from raygap.config import TrialConfig

RATIOS = (0.75, 0.5, 0.25)
ACTIONS = torch.tensor([(1.0, 1.0), *((r, 1.0) for r in RATIOS), *((1.0, r) for r in RATIOS)])
"""(7, 2): share of the batch that audio and visual draw."""
HORIZON = 32
PASSES, LEARNING_RATE, CLIP, DISCOUNT, TRACE = 4, 3e-3, 0.2, 0.95, 0.9
"""Of PPO: passes over a horizon, Adam's rate, the clipped ratio, gamma, and lambda of the advantage estimate."""


def advantages(rewards: Tensor, values: Tensor) -> Tensor:
    """Generalised advantage estimates (T,) from rewards (T,) and values (T + 1,) (Schulman et al., 2016, eq. 16)."""
    errors = rewards + DISCOUNT * values[1:] - values[:-1]
    found = torch.zeros_like(rewards)
    running: Tensor | float = 0.0
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


class Ppo:
    """The policy at work."""

    def __init__(self, config: TrialConfig) -> None:
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.policy = Policy()
        self.adam = torch.optim.Adam(self.policy.parameters(), LEARNING_RATE)
        self.fused = -1.0
        self.memory: dict[str, list] = {"states": [], "actions": [], "chances": [], "rewards": []}

    def act(self, fused: float, cumulative: Tensor, ratios: Tensor, epoch: int, number: int) -> Tensor:
        """The next ratios (2,), from the batch's fused score, and on the CPU the cumulative scores and last ratios."""
        if self.memory["actions"]:
            self.memory["rewards"].append(fused - self.fused - abs(float(cumulative[0] - cumulative[1])))
        self.fused = fused
        state = torch.cat((cumulative, ratios, torch.tensor([epoch / self.config.epochs])))
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
        return ACTIONS[action]

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
        memory = {name: list(values) for name, values in self.memory.items()}
        return {
            "policy": self.policy.state_dict(),
            "adam": self.adam.state_dict(),
            "fused": self.fused,
            "memory": memory,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of state_dict."""
        self.policy.load_state_dict(state["policy"])
        self.adam.load_state_dict(state["adam"])
        self.fused = state["fused"]
        self.memory = {name: [_on_cpu(value) for value in values] for name, values in state["memory"].items()}


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
