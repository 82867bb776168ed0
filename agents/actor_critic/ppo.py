"""PPO: proximal policy optimisation with the clipped surrogate.

Schulman et al. 2017, "Proximal policy optimization algorithms".
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
from agents.memory import Rollout, Rows, Sequences, samples
from envs.transition import Transition

LEAST_LR, MOST_LR = 1e-5, 1e-2
"""Where a learning rate that is steered stays once it is there."""


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """What PPO can be told, beside what every agent can."""

    rollout_size: int = 2048
    """Transitions collected before each update, over all environments."""
    epochs: int = 10
    """Passes over each rollout."""
    batch_size: int = 64
    """Transitions in each minibatch, or nearly: a rollout is split into ones of equal size, and
    is one itself if it is smaller."""
    sequence_length: int | None = None
    """Steps that a recurrent network learns through at a time, from the state it was in when it
    acted: minibatches are made of such stretches. None: of all that an environment gave."""
    gae_lambda: float = 0.95
    """λ of the generalised advantages (Schulman et al. 2016)."""
    clip: float = 0.2
    """How far the probability ratio may move from 1 before its gradient is cut."""
    value_clip: float | None = None
    """How far a value may move from the old one before its gradient is cut; None: any distance."""
    normalize_advantage: bool = True
    """Bring advantages to mean 0 and variance 1 over each rollout."""
    target_kl: float | None = None
    """End an update once the KL divergence from the old policy exceeds 1.5 times this, in nats."""
    adaptive_kl: float | None = None
    """KL divergence from the old policy, in nats, that the learning rate is steered to: after each
    epoch it is divided by 1.5 where the policy moved more than twice as far, multiplied by 1.5
    where less than half (in the manner of RSL-RL). None: it is as `optim` says."""
    value_weight: float = 0.5
    """Weight of the value's squared error in the loss."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus in the loss."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How actions that are numbers spread."""
    network: NetworkConfig = field(default_factory=lambda: NetworkConfig(shared_trunk=False))
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=3e-4, eps=1e-5, max_grad_norm=0.5)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_size", "epochs", "batch_size"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        length, recurrent = self.sequence_length, self.network.recurrent != "none"
        fits = length is None or (recurrent and length >= 1)
        self.require("sequence_length", fits, "1 or more with network.recurrent, or None")
        self.require("gae_lambda", 0 <= self.gae_lambda <= 1, "a number in [0, 1]")
        self.require("clip", self.clip > 0, "a positive number")
        for name in ("value_clip", "target_kl", "adaptive_kl"):
            value = getattr(self, name)
            self.require(name, value is None or value > 0, "a positive number, or None")
        constant = self.optim.schedule == "constant" and not self.optim.warmup_steps
        alone = self.adaptive_kl is None or constant
        what = "None with a schedule, optim.schedule=constant and optim.warmup_steps=0 with it"
        self.require("adaptive_kl", alone, what)
        self.require("value_weight", self.value_weight >= 0, "0 or more")
        self.require("entropy_weight", self.entropy_weight >= 0, "0 or more")


class PPO(Agent):
    """Actions of any kind."""

    name = "ppo"
    Config: ClassVar[type[PPOConfig]] = PPOConfig
    recurrent, kept = True, ("state",)
    config: PPOConfig

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
        # The weights are still those that acted: they give the old log-probabilities and values.
        # A row keeps its dropout mask in all epochs, and all are in one precision: the ratio begins
        # at 1 (but for rounding, of a recurrent network in bfloat16). Acting drops nothing: with
        # dropout the data are not quite the policy's. A state's value drops nothing either: as a
        # baseline it has to be the one it is as a successor.
        noise = self.network.sample_noise(tuple(batch.reward.shape), self.noise) or []
        with torch.no_grad(), self.learner.precision():
            output = self.network(batch.obs, noise, state=batch.extras.get("state"))
            after = output.get("state")  # a recurrent network's, which the successor is valued in
            next_value = self.network(batch.next_obs, only="value", state=after)["value"]
            log_prob = self.policy.log_prob(output["policy"], batch.action)
            value = self.network(batch.obs, only="value")["value"] if noise else output["value"]
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
        # One bad number spoils a whole rollout: then it is one batch, which the learner refuses.
        size = self.config.batch_size if advantage[batch.valid].isfinite().all() else None
        columns = (batch.action, log_prob, output["value"], returns, advantage, *noise)
        log_ratio = self.optimize(samples(batch, columns, self.config.sequence_length), size)
        return {
            "explained_variance": losses.explained_variance(value, returns, batch.valid),
            "policy_entropy": float(self.policy.entropy(output["policy"])[batch.valid].mean()),
            "kl": float(kl(log_ratio)),
            "clip_fraction": float(
                ((log_ratio.exp() - 1.0).abs() > self.config.clip).float().mean()
            ),
        }

    def optimize(self, data: Rows | Sequences, size: int | None) -> Tensor:
        """Epochs of minibatches of about `size` rows, until the policy has moved far enough.

        With size None the rollout is one batch. Returns log π(a|s) - log π_old(a|s) as seen in
        the last epoch.
        """
        c = self.config
        count = max(1, round(len(data) / size)) if size else 1
        for _ in range(c.epochs):
            log_ratios = []
            for minibatch in data.shuffled(count, self.rng):
                step = self.learner.minimize(self.loss, *minibatch)
                log_ratios.append(step.aux["log_ratio"])
                moved = c.target_kl is not None and bool(kl(log_ratios[-1]) > 1.5 * c.target_kl)
                over = step.skipped or moved
                if over:
                    break
            if c.adaptive_kl is not None and not step.skipped:
                self.steer(float(kl(torch.cat(log_ratios))) / c.adaptive_kl)
            if over:
                break
        return torch.cat(log_ratios)

    def steer(self, far: float) -> None:
        """Change the learning rate, the policy having moved `far` times as much as it should."""
        factor = 1.5 if far < 0.5 else 1 / 1.5 if far > 2.0 else 1.0
        now = self.learner.lr
        least, most = min(now, LEAST_LR), max(now, MOST_LR)  # one that began outside comes in
        self.learner.lr_scale *= min(max(now * factor, least), most) / now

    def loss(
        self,
        obs: Tensor | History,
        action: Tensor,
        old_log_prob: Tensor,
        old_value: Tensor,
        returns: Tensor,
        advantage: Tensor,
        *noise: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        c = self.config
        output = self.network(obs, noise)
        log_ratio = self.policy.log_prob(output["policy"], action) - old_log_prob
        if c.value_clip is None:
            value_error = losses.squared(output["value"], returns)
        else:
            value_error = losses.clipped_value(output["value"], old_value, returns, c.value_clip)
        terms = {
            "policy": losses.clipped_surrogate(log_ratio.exp(), advantage, c.clip).mean(),
            "value": c.value_weight * value_error.mean(),
        }
        if c.entropy_weight:
            terms["entropy"] = -c.entropy_weight * self.policy.entropy(output["policy"]).mean()
        aux = {"prediction": output["value"].detach(), "target": returns}
        return terms, aux | {"log_ratio": log_ratio.detach()}


def kl(log_ratio: Tensor) -> Tensor:
    """KL(π_old, π) from samples of π_old, by the low-variance estimator E[ρ - 1 - log ρ]."""
    return (log_ratio.exp() - 1.0 - log_ratio).mean()


@dataclass(frozen=True)
class RecurrentPPOConfig(PPOConfig):
    """A GRU, the best of the memories that PPO was tried with in Morad et al. 2023, "POPGym"."""

    sequence_length: int | None = 32
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(shared_trunk=False, recurrent="gru")
    )


class RecurrentPPO(PPO):
    """PPO with a network that remembers the episode."""

    name, Config = "recurrent_ppo", RecurrentPPOConfig
