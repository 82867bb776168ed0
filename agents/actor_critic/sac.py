"""SAC: soft actor-critic, which earns reward and stays as random as it can, and its relatives.

Haarnoja et al. 2018, "Soft actor-critic algorithms and applications". Each later idea is a field of
the config: an ensemble of critics of which the target takes some (REDQ, Chen et al. 2021), critics
with dropout and many updates a step (DroQ, Hiraoka et al. 2022), and critics of quantiles whose
highest are left out (TQC, Kuznetsov et al. 2020). These agents, at the end, are SAC with other
defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents import targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core import acting
from agents.core.distributions import PolicyConfig, SquashedGaussian
from agents.core.learner import Step
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import uniform
from agents.memory import Replay
from agents.values import QuantileValue, Value
from envs.transition import Transition


@dataclass(frozen=True)
class SACConfig(AgentConfig):
    """What SAC can be told, beside what every agent can."""

    buffer_size: int = 1_000_000
    """Transitions the replay holds."""
    batch_size: int = 256
    """Transitions in each update."""
    learning_starts: int = 1_000
    """Environment steps of uniformly random actions, and before the first update."""
    updates_per_step: float = 1.0
    """Updates of the critics for each environment step, whatever the number of environments."""
    train_every: int = 1
    """Environment steps from one burst of the updates due to the next."""
    policy_every: int = 1
    """Updates of the critics from one of the actor and the temperature to the next."""
    tau: float = 0.005
    """How far the target critics move towards the online ones in each update; 1 copies them."""
    critics: int = 2
    """Critics, each with a target network of its own."""
    subset: int | None = None
    """Critics, drawn anew in each update, whose least value is the target; None: all."""
    policy_value: Literal["min", "mean"] = "min"
    """What the actor ascends: the least value of all critics, or their mean."""
    quantiles: int | None = None
    """Quantiles of the return that each critic estimates; None: its mean alone."""
    dropped: int = 2
    """Of all critics' quantiles together the highest, so many for each critic, are not in the
    target; only where there are quantiles."""
    temperature: float | None = None
    """What a nat of entropy is worth, in units of reward; None: learned."""
    initial_temperature: float = 1.0
    """Where a learned temperature begins. With small rewards, as with normalize_reward, better
    small too, say 0.01: else values begin with an entropy that outweighs all reward."""
    target_entropy: float | None = None
    """The entropy in nats, of actions in [-1, 1], that a learned temperature holds; None: -1 for
    each number of an action."""
    policy: PolicyConfig = field(default_factory=lambda: PolicyConfig("state"))
    """How actions spread before tanh bounds them. With std gsde (Raffin et al. 2022) the factors of
    the noise, as many as the last layer has units, had better begin small, at a log_std of -3."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu")
    )
    """What the actor is built of."""
    critic_network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu", shared_trunk=False)
    )
    """What the critics are built of; with shared_trunk they have one trunk and a head each."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How the actor and the temperature follow their gradients."""
    critic_optim: OptimConfig = field(default_factory=OptimConfig)
    """How the critics follow theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        for name in ("policy_every", "critics"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        some = self.subset is None or (1 <= self.subset <= self.critics and not self.quantiles)
        self.require("subset", some, f"1 to critics, {self.critics}, without quantiles, or None")
        self.require(
            "quantiles", self.quantiles is None or self.quantiles >= 1, "1 or more, or None"
        )
        least = self.dropped >= 0 and self.dropped < (self.quantiles or math.inf)
        self.require("dropped", least, "0 or more, and fewer than quantiles")
        if self.quantiles is None:
            self.require_default("without quantiles", "dropped")
        self.check_temperature()


class SAC(Agent):
    """Actions of a bounded Box, any number of environments."""

    name = "sac"
    Config = SACConfig
    config: SACConfig
    memory: Replay

    def build(self) -> None:
        c = self.config
        self.refuse_trunk()
        self.action_size = self.bounded_actions()
        self.policy = SquashedGaussian(self.action_size, c.policy)
        self.actor_network = self.new_network({"policy": self.policy.head})
        self.value = QuantileValue(c.quantiles) if c.quantiles else Value("squared")
        heads = {"q": Head(c.quantiles, members=c.critics)}
        self.critics = self.new_network(heads, c.critic_network, self.action_size)
        self.critic_learner = self.new_learner("critic", c.critic_optim, critics=self.critics)
        self.actor_learner = self.new_learner("actor", network=self.actor_network)
        self.target = self.new_target(self.critic_learner)
        self.temperature, self.temperature_learner = self.new_temperature(
            c.temperature, c.initial_temperature
        )
        self.memory = self.new_replay()

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        return acting.begin(self.policy, self.actor_network, count, explore, rng)

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        if explore and self.steps < self.config.learning_starts:
            return uniform(len(obs), self.action_size, rng)
        return acting.draw(self.policy, self.actor_network, obs, carried, explore, rng)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """What each critic expects of actions `(B, A)` in [-1, 1], `(E, B)`."""
        return self.value.expectation(self.critics(obs, action=action)["q"])

    def estimate(self, obs: Tensor) -> Tensor:
        """The least that a critic expects, with what entropy to come is worth in it."""
        still = self.policy.still(self.actor_network(obs)["policy"])
        return self.q_values(obs, still).amin(0)

    def update(self, batch: Transition) -> Metrics:
        c, count = self.config, len(batch.reward)
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, next_obs)
        dropout = self.critics.sample_noise((count,), self.noise)
        step = self.critic_learner.minimize(self.critic_loss, obs, batch.action, target, dropout)
        if not step.skipped and self.critic_learner.updates % c.policy_every == 0:
            step = self.improve(obs)
        if not step.skipped:
            self.target.follow(c.tau)
        return {"temperature": float(self.temperature().detach())}

    def improve(self, obs: Tensor) -> Step:
        """One step of the actor, and of the temperature towards the entropy that it is to hold."""
        lead, temperature = (len(obs),), self.temperature().detach()
        dropout = [net.sample_noise(lead, self.noise) for net in (self.actor_network, self.critics)]
        inputs = obs, self.policy.noise(len(obs), self.noise), temperature, *dropout
        step = self.actor_learner.minimize(self.actor_loss, *inputs)
        if self.temperature_learner is not None and not step.skipped:
            step = self.temperature_learner.minimize(self.temperature_loss, step.aux["log_prob"])
        return step

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor) -> Tensor:
        """r + γ (min_k Q_target,k(s', a') - α log π(a'|s')), `(B,)`, or its quantiles `(B, m)`."""
        c, count = self.config, len(next_obs)
        policy = self.actor_network(next_obs)["policy"]
        next_action, log_prob = self.policy.draw(policy, self.policy.noise(count, self.noise))
        dropout = self.critics.sample_noise((count,), self.noise)
        q = self.target.modules["critics"](next_obs, dropout, action=next_action)["q"]
        if c.quantiles:
            successor = targets.truncated_quantiles(q, c.dropped)
        else:
            if c.subset is not None:
                order = torch.randperm(c.critics, generator=self.noise, device=self.device)
                q = q[order[: c.subset]]
            successor = q.amin(0)
        discount = batch.discount(c.gamma)
        entropy = -self.temperature() * log_prob  # of the next action, as a reward for it
        return self.value.target(
            self.scaled(batch.reward) + discount * entropy, discount, successor
        )

    def critic_loss(
        self, obs: Tensor, action: Tensor, target: Tensor, dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = self.critics(obs, dropout, action=action)["q"]  # (E, B) or (E, B, n)
        error = self.value.loss(q, target.expand(len(q), *target.shape))
        expected = self.value.expectation(q.detach())
        aux = {"q": expected.mean(), "q_spread": expected.std(0, correction=0).mean()}
        aux |= {"prediction": expected, "target": self.value.target_mean(target)}
        return {"td": error.mean(-1).sum()}, aux

    def actor_loss(
        self,
        obs: Tensor,
        noise: Tensor,
        temperature: Tensor,
        dropout: list[Tensor] | None,
        critic_dropout: list[Tensor] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E[α log π(a|s) - Q(s, a)] with a = tanh(μ + σ noise), through critics that stay."""
        action, log_prob = self.policy.draw(self.actor_network(obs, dropout)["policy"], noise)
        q = self.value.expectation(self.critics(obs, critic_dropout, action=action)["q"])
        value = q.amin(0) if self.config.policy_value == "min" else q.mean(0)
        terms = {"value": -value.mean(), "entropy": temperature * log_prob.mean()}
        return terms, {"log_prob": log_prob.detach(), "policy_entropy": -log_prob.detach().mean()}

    def temperature_loss(self, log_prob: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E[log α (H(π) - H̄)]: α falls where the entropy is above what it is to be."""
        c = self.config
        held = -float(self.action_size) if c.target_entropy is None else c.target_entropy
        return {"dual": -self.temperature.log * (log_prob.mean() + held)}, {}


# SAC by other names: each only says where it begins. -------------------------------------------


@dataclass(frozen=True)
class TQCConfig(SACConfig):
    """Kuznetsov et al. 2020, "Controlling overestimation bias with truncated mixture of continuous
    distributional quantile critics"."""

    quantiles: int | None = 25
    policy_value: Literal["min", "mean"] = "mean"


class TQC(SAC):
    """SAC over quantiles of the return, of which the highest are left out of the target."""

    name, Config = "tqc", TQCConfig


@dataclass(frozen=True)
class REDQConfig(SACConfig):
    """Chen et al. 2021, "Randomized ensembled double Q-learning"."""

    critics: int = 10
    subset: int | None = 2
    policy_value: Literal["min", "mean"] = "mean"
    updates_per_step: float = 20.0
    policy_every: int = 20


class REDQ(SAC):
    """SAC with ten critics, of which two are drawn for a target, and many updates a step."""

    name, Config = "redq", REDQConfig


@dataclass(frozen=True)
class DroQConfig(SACConfig):
    """Hiraoka et al. 2022, "Dropout Q-functions for doubly efficient reinforcement learning"."""

    policy_value: Literal["min", "mean"] = "mean"
    updates_per_step: float = 20.0
    policy_every: int = 20
    critic_network: NetworkConfig = field(
        default_factory=lambda: replace(SACConfig().critic_network, norm="layer", dropout=0.01)
    )


class DroQ(SAC):
    """SAC with dropout and layer normalisation in two critics, and many updates a step."""

    name, Config = "droq", DroQConfig
