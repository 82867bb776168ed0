"""REINFORCE: Monte-Carlo policy gradient, with an optional learned baseline.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; the baseline as in Sutton & Barto 2018, section 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core import acting
from agents.core.distributions import PolicyConfig, policy_for
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.memory import Rollout
from envs.transition import Transition


@dataclass(frozen=True)
class REINFORCEConfig(AgentConfig):
    """What REINFORCE can be told, beside what every agent can."""

    episodes_per_update: int = 8
    """Episodes in each update, at least; the same number from each environment."""
    baseline: bool = True
    """Subtract a learned state value from the returns: the same gradient, less variance."""
    normalize_advantage: bool = True
    """Bring what weighs the gradient to mean 0 and variance 1 over each update."""
    value_weight: float = 0.5
    """Weight of the baseline's squared error in the loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus in the loss."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How actions that are numbers spread."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(shared_trunk=True))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, stats_every=1)  # its updates are rare
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("episodes_per_update", self.episodes_per_update >= 1, "1 or more")
        self.require("value_weight", self.value_weight >= 0, "0 or more")
        self.require("entropy_weight", self.entropy_weight >= 0, "0 or more")


class REINFORCE(Agent):
    """Actions of any kind. Without a baseline a truncated episode counts as ended."""

    name = "reinforce"
    Config = REINFORCEConfig
    config: REINFORCEConfig

    def build(self) -> None:
        self.policy = policy_for(self.action_space, self.config.policy)
        heads = {"policy": self.policy.head}
        self.network = self.new_network(
            heads | ({"value": "scalar"} if self.config.baseline else {})
        )
        self.learner = self.new_learner("reinforce", network=self.network)
        self.memory = Rollout(episodes=self.config.episodes_per_update, device=self.device)

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        return acting.begin(self.policy, self.network, count, explore, rng)

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        return acting.draw(self.policy, self.network, obs, carried, explore, rng)

    def estimate(self, obs: Tensor) -> Tensor | None:
        return self.network(obs, only="value")["value"] if self.config.baseline else None

    def update(self, batch: Transition) -> Metrics:
        value, next_value = self.baseline(batch.obs), self.baseline(batch.next_obs)
        returns = targets.discounted_returns(
            self.scaled(batch.reward), batch.discount(self.config.gamma), next_value, batch.done
        )
        advantage = returns - value
        if self.config.normalize_advantage:
            advantage = losses.standardized(advantage, batch.valid)
        inputs = [x[batch.valid] for x in (batch.obs, batch.action, returns, advantage)]
        noise = self.network.sample_noise((len(inputs[0]),), self.noise)
        self.learner.minimize(self.loss, *inputs, noise)
        return {"explained_variance": losses.explained_variance(value, returns, batch.valid)}

    @torch.no_grad()
    def baseline(self, obs: Tensor) -> Tensor:
        """v(s), `(T, N)`; zero without a baseline."""
        if self.config.baseline:
            return self.network(obs, only="value")["value"]
        return torch.zeros(obs.shape[:-1], device=obs.device)

    def loss(
        self, obs: Tensor, action: Tensor, returns: Tensor, advantage: Tensor, noise: list[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        output = self.network(obs, noise)
        log_prob = self.policy.log_prob(output["policy"], action)
        entropy = self.policy.entropy(output["policy"]).mean()
        terms = {"policy": losses.policy_gradient(log_prob, advantage).mean()}
        aux = {"policy_entropy": entropy.detach()}
        if self.config.baseline:
            error = losses.squared(output["value"], returns).mean()
            terms["value"] = self.config.value_weight * error
            aux |= {"prediction": output["value"].detach(), "target": returns}
        if self.config.entropy_weight:
            terms["entropy"] = -self.config.entropy_weight * entropy
        return terms, aux
