"""A2C: advantage actor-critic, one step on each short rollout.

Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", in its synchronous form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core import acting
from agents.core.distributions import PolicyConfig, policy_for
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.core.recurrent import History
from agents.memory import Rollout, samples
from envs.transition import Transition


@dataclass(frozen=True)
class A2CConfig(AgentConfig):
    """What A2C can be told, beside what every agent can."""

    rollout_size: int = 40
    """Transitions in each update, over all environments."""
    gae_lambda: float = 1.0
    """λ of the advantages; 1 gives the n-step ones of the paper (Schulman et al. 2016)."""
    normalize_advantage: bool = False
    """Bring advantages to mean 0 and variance 1 over each update."""
    value_weight: float = 0.5
    """Weight of the value's squared error in the loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus in the loss."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How actions that are numbers spread."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(shared_trunk=False))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            optimizer="rmsprop", lr=7e-4, eps=1e-5, max_grad_norm=0.5
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("rollout_size", self.rollout_size >= 1, "1 or more")
        self.require("gae_lambda", 0 <= self.gae_lambda <= 1, "a number in [0, 1]")
        self.require("value_weight", self.value_weight >= 0, "0 or more")
        self.require("entropy_weight", self.entropy_weight >= 0, "0 or more")


class A2C(Agent):
    """Actions of any kind."""

    name = "a2c"
    Config: ClassVar[type[A2CConfig]] = A2CConfig
    recurrent, kept = True, ("state",)
    config: A2CConfig

    def build(self) -> None:
        self.policy = policy_for(self.action_space, self.config.policy)
        self.network = self.new_network({"policy": self.policy.head, "value": "scalar"})
        self.learner = self.new_learner(self.name, network=self.network)
        self.memory = Rollout(self.config.rollout_size, device=self.device)

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        return acting.begin(self.policy, self.network, count, explore, rng)

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        return acting.draw(self.policy, self.network, obs, carried, explore, rng)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs, only="value")["value"]

    def update(self, batch: Transition) -> Metrics:
        with torch.no_grad():
            output = self.network(batch.obs, only="value", state=batch.extras.get("state"))
            after = output.get("state")  # a recurrent network's, which the successor is valued in
            next_value = self.network(batch.next_obs, only="value", state=after)["value"]
        value = output["value"]
        advantage = targets.gae(
            self.scaled(batch.reward),
            batch.discount(self.config.gamma),
            value,
            next_value,
            batch.done,
            self.config.gae_lambda,
        )
        returns = advantage + value
        if self.config.normalize_advantage:
            advantage = losses.standardized(advantage, batch.valid)
        inputs = samples(batch, (batch.action, returns, advantage)).whole()
        noise = self.network.sample_noise((len(inputs[1]),), self.noise)
        self.learner.minimize(self.loss, *inputs, noise)
        return {"explained_variance": losses.explained_variance(value, returns, batch.valid)}

    def loss(
        self,
        obs: Tensor | History,
        action: Tensor,
        returns: Tensor,
        advantage: Tensor,
        noise: list[Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        output = self.network(obs, noise)
        log_prob = self.policy.log_prob(output["policy"], action)
        entropy = self.policy.entropy(output["policy"]).mean()
        value_error = losses.squared(output["value"], returns).mean()
        terms = {
            "policy": losses.policy_gradient(log_prob, advantage).mean(),
            "value": self.config.value_weight * value_error,
        }
        if self.config.entropy_weight:
            terms["entropy"] = -self.config.entropy_weight * entropy
        aux = {"prediction": output["value"].detach(), "target": returns}
        return terms, aux | {"policy_entropy": entropy.detach()}


@dataclass(frozen=True)
class RecurrentA2CConfig(A2CConfig):
    """An LSTM, as in the paper."""

    rollout_size: int = 160
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(shared_trunk=False, recurrent="lstm")
    )


class RecurrentA2C(A2C):
    """A2C with a network that remembers the episode; it learns through one rollout at a time."""

    name, Config = "recurrent_a2c", RecurrentA2CConfig
