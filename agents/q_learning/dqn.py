"""DQN: deep Q-learning from replay with a target network, double or not.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; van Hasselt et al.
2016, "Deep reinforcement learning with double Q-learning".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.core.schedules import linear
from agents.core.seeding import stream
from agents.exploration import boltzmann, epsilon_greedy, ez_greedy
from agents.memory import Replay
from envs.transition import Transition


@dataclass(frozen=True)
class DQNConfig(AgentConfig):
    """What DQN can be told, beside what every agent can."""

    buffer_size: int = 100_000
    """Transitions the replay holds."""
    batch_size: int = 64
    """Transitions in each update."""
    learning_starts: int = 1_000
    """Transitions collected before the first update."""
    updates_per_step: float = 0.5
    """Updates for each environment step, whatever the number of environments."""
    train_every: int = 1
    """Environment steps from one burst of the updates due to the next."""
    double: bool = True
    """Let the online network choose the next action that the target network values."""
    loss: Literal["huber", "squared"] = "huber"
    """What is made of the TD error."""
    target_every: int = 100
    """Updates from one move of the target network to the next."""
    tau: float = 1.0
    """How far the target network then moves towards the online one; 1 copies it."""
    exploration: Literal["epsilon_greedy", "boltzmann", "ez_greedy"] = "epsilon_greedy"
    """How others than the best action are tried; ez_greedy keeps to one for a while."""
    epsilon_start: float = 1.0
    """Probability of a random action, with ez_greedy of beginning one, at the start."""
    epsilon_end: float = 0.05
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 10_000
    """Environment steps over which it is reduced, linearly."""
    temperature: float = 1.0
    """With boltzmann: actions are drawn with probability proportional to exp(Q / temperature)."""
    duration_exponent: float = 2.0
    """With ez_greedy: a random action lasts n steps with probability proportional to 1 / n to the
    power of this; the larger, the shorter."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu")
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("buffer_size", "batch_size", "train_every", "target_every"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("learning_starts", "epsilon_steps"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        self.require("updates_per_step", self.updates_per_step > 0, "a positive number")
        self.require("loss", self.loss in ("huber", "squared"), "huber or squared")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        for name in ("epsilon_start", "epsilon_end"):
            self.require(name, 0 <= getattr(self, name) <= 1, "a probability in [0, 1]")
        self.require(
            "exploration",
            self.exploration in ("epsilon_greedy", "boltzmann", "ez_greedy"),
            "epsilon_greedy, boltzmann or ez_greedy",
        )
        self.require("temperature", self.temperature > 0, "a positive number")
        self.require("duration_exponent", self.duration_exponent > 1, "a number above 1")


class DQN(Agent):
    """Discrete actions, any number of environments."""

    name = "dqn"
    Config = DQNConfig
    config: DQNConfig

    def build(self) -> None:
        c = self.config
        self.network = self.new_network({"q": self.discrete_actions()})
        self.learner = self.new_learner("dqn", network=self.network)
        self.target = self.new_target(self.learner)
        self.memory = Replay(
            c.buffer_size,
            c.batch_size,
            c.updates_per_step,
            c.learning_starts,
            stream(self.seed, "replay"),
            self.device,
            c.train_every,
        )

    @property
    def epsilon(self) -> float:
        """The probability of a random action now."""
        c = self.config
        return linear(self.steps / max(c.epsilon_steps, 1), c.epsilon_start, c.epsilon_end)

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        if explore and self.config.exploration == "ez_greedy":
            return {"last": np.zeros(count, np.int64), "left": np.zeros(count, np.int64)}
        return {}

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        c, q = self.config, self.network(obs)["q"].cpu().numpy()
        if carried:
            last, left = carried["last"], carried["left"]
            last[:], left[:] = ez_greedy(q, self.epsilon, c.duration_exponent, last, left, rng)
            return last.copy()
        if explore and c.exploration == "boltzmann":
            return boltzmann(q, c.temperature, rng)
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def update(self, batch: Transition) -> Metrics:
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, next_obs)
        noise = self.network.sample_noise((len(obs),), self.noise)
        step = self.learner.minimize(self.loss, obs, batch.action, target, noise)
        if not step.skipped and self.learner.updates % self.config.target_every == 0:
            self.target.follow(self.config.tau)
        return {"epsilon": self.epsilon}

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor) -> Tensor:
        """r + γ max_a Q_target(s', a), `(B,)`, or the double form of it."""
        reward, discount = self.scaled(batch.reward), batch.discount(self.config.gamma)
        next_q = self.target.modules["network"](next_obs)["q"]
        if self.config.double:
            selector_q = self.network(next_obs)["q"]
            return targets.double_q_learning(reward, discount, next_q, selector_q)
        return targets.q_learning(reward, discount, next_q)

    def loss(
        self, obs: Tensor, action: Tensor, target: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = self.network(obs, noise)["q"].gather(-1, action.unsqueeze(-1)).squeeze(-1)
        error = losses.huber if self.config.loss == "huber" else losses.squared
        td_error = (target - q).detach()
        aux = {"q": q.detach().mean(), "td_error": td_error}
        return {"td": error(q, target).mean()}, aux
