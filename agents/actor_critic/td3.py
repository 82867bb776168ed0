"""TD3: twin delayed deep deterministic policy gradient, and DDPG, which it came from.

Fujimoto et al. 2018, "Addressing function approximation error in actor-critic methods". DDPG, at
the end, is TD3 with other defaults: one critic, no noise in the target, an actor that is not
delayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents import losses
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import ornstein_uhlenbeck, uniform
from agents.memory import Replay
from envs.transition import Transition


@dataclass(frozen=True)
class TD3Config(AgentConfig):
    """What TD3 can be told, beside what every agent can."""

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
    policy_every: int = 2
    """Updates of the critics from one of the actor and all targets to the next."""
    tau: float = 0.005
    """How far the target networks then move towards the online ones; 1 copies them."""
    critics: int = 2
    """Critics whose least value is the target."""
    target_noise: float = 0.2
    """Deviation of the noise on the next action in a target, of actions in [-1, 1]."""
    target_noise_clip: float = 0.5
    """Where that noise is cut off."""
    exploration: Literal["gaussian", "ornstein_uhlenbeck"] = "gaussian"
    """Noise on actions: drawn anew in each step, or one that drifts (Lillicrap et al. 2016)."""
    action_noise: float = 0.1
    """Its deviation, of actions in [-1, 1]; of Ornstein-Uhlenbeck noise the σ."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu")
    )
    """What the actor is built of."""
    critic_network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu", shared_trunk=False)
    )
    """What the critics are built of; with shared_trunk they have one trunk and a head each."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How the actor follows its gradient."""
    critic_optim: OptimConfig = field(default_factory=OptimConfig)
    """How the critics follow theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        for name in ("policy_every", "critics"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        for name in ("target_noise", "target_noise_clip", "action_noise"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        if not self.target_noise:
            self.require_default("without target_noise", "target_noise_clip")


class TD3(Agent):
    """Actions of a bounded Box, any number of environments."""

    name = "td3"
    Config = TD3Config
    config: TD3Config
    memory: Replay

    def build(self) -> None:
        c = self.config
        self.refuse_trunk()
        self.action_size = self.bounded_actions()
        self.actor_network = self.new_network({"policy": Head(self.action_size, gain=0.01)})
        heads = {"q": Head(None, members=c.critics)}
        self.critics = self.new_network(heads, c.critic_network, self.action_size)
        self.critic_learner = self.new_learner("critic", c.critic_optim, critics=self.critics)
        self.actor_learner = self.new_learner("actor", network=self.actor_network)
        self.critic_target = self.new_target(self.critic_learner)
        self.actor_target = self.new_target(self.actor_learner)
        self.memory = self.new_replay()

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        if explore and self.config.exploration == "ornstein_uhlenbeck":
            return {"noise": np.zeros((count, self.action_size), np.float32)}
        return {}

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        c = self.config
        if explore and self.steps < c.learning_starts:
            return uniform(len(obs), self.action_size, rng)
        action = self.actor_network(obs)["policy"].tanh().cpu().numpy()
        if carried:
            carried["noise"][:] = ornstein_uhlenbeck(carried["noise"], c.action_noise, rng)
            action = action + carried["noise"]
        elif explore:
            action = action + c.action_noise * rng.standard_normal(action.shape, np.float32)
        return action.clip(-1.0, 1.0)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """What each critic expects of actions `(B, A)` in [-1, 1], `(E, B)`."""
        return self.critics(obs, action=action)["q"]

    def estimate(self, obs: Tensor) -> Tensor:
        return self.q_values(obs, self.actor_network(obs)["policy"].tanh()).amin(0)

    def update(self, batch: Transition) -> Metrics:
        lead = (len(batch.reward),)
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, next_obs)
        dropout = self.critics.sample_noise(lead, self.noise)
        step = self.critic_learner.minimize(self.critic_loss, obs, batch.action, target, dropout)
        if not step.skipped and self.critic_learner.updates % self.config.policy_every == 0:
            networks = self.actor_network, self.critics
            dropouts = [network.sample_noise(lead, self.noise) for network in networks]
            if not self.actor_learner.minimize(self.actor_loss, obs, *dropouts).skipped:
                self.critic_target.follow(self.config.tau)
                self.actor_target.follow(self.config.tau)
        return {}

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor) -> Tensor:
        """r + γ min_k Q_target,k(s', clip(π_target(s') + clip(ε))), `(B,)`."""
        c = self.config
        action = self.actor_target.modules["network"](next_obs)["policy"].tanh()
        noise = torch.randn(action.shape, generator=self.noise, device=self.device)
        noise = (c.target_noise * noise).clamp(-c.target_noise_clip, c.target_noise_clip)
        action = (action + noise).clamp(-1.0, 1.0)
        q = self.critic_target.modules["critics"](next_obs, action=action)["q"]  # (E, B)
        return self.scaled(batch.reward) + batch.discount(c.gamma) * q.amin(0)

    def critic_loss(
        self, obs: Tensor, action: Tensor, target: Tensor, dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = self.critics(obs, dropout, action=action)["q"]  # (E, B)
        error = losses.squared(q, target.expand_as(q))
        found = q.detach()
        aux = {"q": found.mean(), "prediction": found, "target": target}
        return {"td": error.mean(-1).sum()}, aux

    def actor_loss(
        self, obs: Tensor, dropout: list[Tensor] | None, critic_dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """-E[Q_1(s, π(s))]: its gradient is the deterministic policy gradient (Silver 2014)."""
        action = self.actor_network(obs, dropout)["policy"].tanh()
        return {"value": -self.critics(obs, critic_dropout, action=action)["q"][0].mean()}, {}


# TD3 by another name: it only says where it begins. ----------------------------------------------


@dataclass(frozen=True)
class DDPGConfig(TD3Config):
    """Lillicrap et al. 2016, "Continuous control with deep reinforcement learning"."""

    policy_every: int = 1
    critics: int = 1
    target_noise: float = 0.0
    critic_network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu")
    )


class DDPG(TD3):
    """TD3 without twin critics, delay and noise in the target."""

    name, Config = "ddpg", DDPGConfig
