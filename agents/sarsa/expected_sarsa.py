"""Expected SARSA from replay: DQN, but for the value of the next state.

van Seijen et al. 2009, "A theoretical and empirical analysis of expected Sarsa". Where Q-learning
takes the best value of the next state, it takes the expectation over a policy: here over the one
that acts now, from experience of earlier ones, which makes it off-policy. No action of theirs
enters the target, so nothing has to be corrected for. Replay and target network as in Mnih et al.
2015.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import (
    boltzmann,
    boltzmann_probabilities,
    epsilon_greedy,
    epsilon_greedy_probabilities,
)
from envs.transition import Transition


@dataclass(frozen=True)
class ExpectedSARSAConfig(AgentConfig):
    """What expected SARSA can be told, beside what every agent can."""

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
    frames: int = 1
    """Frames that an observation is a stack of; each is then stored once."""
    double: bool = True
    """Take the policy from the online network, as it acts; False: from the target network too."""
    dueling: bool = False
    """Learn the value of a state and the advantages of its actions apart (Wang et al. 2016)."""
    loss: Literal["huber", "squared"] = "huber"
    """What is made of the TD error."""
    target_every: int = 100
    """Updates from one move of the target network to the next."""
    tau: float = 1.0
    """How far the target network then moves towards the online one; 1 copies it."""
    exploration: Literal["epsilon_greedy", "boltzmann"] = "epsilon_greedy"
    """How actions are drawn from their values; the values learned are those of this policy."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start, with epsilon_greedy."""
    epsilon_end: float = 0.05
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 10_000
    """Environment steps over which it is reduced, linearly."""
    temperature: float = 1.0
    """With boltzmann: actions are drawn with probability proportional to exp(Q / temperature)."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu")
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        self.require("target_every", self.target_every >= 1, "1 or more")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        self.check_exploration()


class ExpectedSARSA(Agent):
    """Discrete actions, any number of environments."""

    name = "expected_sarsa"
    Config = ExpectedSARSAConfig
    config: ExpectedSARSAConfig

    def build(self) -> None:
        c = self.config
        self.network = self.new_network(
            {"q": Head(self.discrete_actions(), masked=True, dueling=c.dueling)}
        )
        self.learner = self.new_learner("expected_sarsa", network=self.network)
        self.target = self.new_target(self.learner)
        self.memory = self.new_replay(frames=c.frames)

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        q = self.network(obs)["q"].cpu().numpy()
        if explore and self.config.exploration == "boltzmann":
            return boltzmann(q, self.config.temperature, rng)
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def policy(self, q: Tensor) -> Tensor:
        """π(a|s) `(B, A)` from values `(B, A)`: the policy that acts now and that is valued."""
        if self.config.exploration == "boltzmann":
            return boltzmann_probabilities(q, self.config.temperature)
        return epsilon_greedy_probabilities(q, self.epsilon)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs)["q"].amax(-1)

    def update(self, batch: Transition) -> Metrics:
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, next_obs)
        noise = self.network.sample_noise((len(obs),), self.noise)
        step = self.learner.minimize(self.loss, obs, batch.action, target, noise)
        if not step.skipped and self.learner.updates % self.config.target_every == 0:
            self.target.follow(self.config.tau)
        return {} if self.config.exploration == "boltzmann" else {"epsilon": self.epsilon}

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor) -> Tensor:
        """r + γ Σ_a π(a|s') Q_target(s', a), `(B,)`."""
        reward, discount = self.scaled(batch.reward), batch.discount(self.config.gamma)
        next_q = self.target.modules["network"](next_obs)["q"]
        policy = self.policy(self.network(next_obs)["q"] if self.config.double else next_q)
        return targets.expected_sarsa(reward, discount, next_q, policy)

    def loss(
        self, obs: Tensor, action: Tensor, target: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = targets.action_value(self.network(obs, noise)["q"], action)
        error = losses.huber if self.config.loss == "huber" else losses.squared
        prediction = q.detach()
        aux = {"q": prediction.mean(), "prediction": prediction, "target": target}
        return {"td": error(q, target).mean()}, aux
