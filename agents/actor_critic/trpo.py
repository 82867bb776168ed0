"""TRPO and the natural policy gradient: steps measured by how far they move the policy.

Schulman et al. 2015, "Trust region policy optimization"; Kakade 2001, "A natural policy gradient",
with steps of a normalised length as in Rajeswaran et al. 2017, "Towards generalization and
simplicity in continuous control".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core import acting
from agents.core.conjugate_gradients import conjugate_gradients
from agents.core.distributions import PolicyConfig, policy_for
from agents.core.optimizers import OptimConfig
from agents.memory import Rollout
from envs.transition import Transition

TINY = 1e-12
"""The least xᵀF x: a gradient of nothing but rounding is not made a whole step."""


@dataclass(frozen=True)
class TRPOConfig(AgentConfig):
    """What TRPO can be told, beside what every agent can."""

    rollout_size: int = 2048
    """Transitions in each update, over all environments."""
    gae_lambda: float = 0.95
    """λ of the generalised advantages (Schulman et al. 2016)."""
    normalize_advantage: bool = True
    """Bring advantages to mean 0 and variance 1 over each rollout."""
    max_kl: float = 0.01
    """How far a step may take the policy: mean KL divergence from the old one, in nats."""
    cg_steps: int = 15
    """Steps of conjugate gradients, each a product with the Fisher matrix."""
    damping: float = 0.1
    """Added to the diagonal of the Fisher matrix, which need not have full rank."""
    backtracks: int = 10
    """How often a step that goes too far, or does not improve the policy, is shortened before it is
    given up; 0: it is taken as it is, which is the natural policy gradient."""
    shorter: float = 0.8
    """What a step is shortened to each time, as a share of the one before."""
    epochs: int = 10
    """Passes of the value over each rollout."""
    batch_size: int = 128
    """Transitions in each minibatch of the value, or nearly: they are of equal size."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """How actions that are numbers spread."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3))
    """How the value follows its gradient. The policy has no learning rate, but its steps become
    shorter in the proportion in which a schedule lowers the value's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_size", "cg_steps", "epochs", "batch_size"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("gae_lambda", 0 <= self.gae_lambda <= 1, "a number in [0, 1]")
        self.require("max_kl", self.max_kl > 0, "a positive number")
        self.require("damping", self.damping >= 0, "0 or more")
        self.require("backtracks", self.backtracks >= 0, "0 or more")
        self.require("shorter", 0 < self.shorter < 1, "a number in (0, 1)")
        if not self.backtracks:
            self.require_default("without backtracks", "shorter")


class TRPO(Agent):
    """Actions of any kind. The policy and the value have a network and a learner each."""

    name = "trpo"
    Config = TRPOConfig
    config: TRPOConfig

    def build(self) -> None:
        self.policy = policy_for(self.action_space, self.config.policy)
        self.network = self.new_network({"policy": self.policy.head})
        self.critic = self.new_network({"value": "scalar"})
        # A direction is the whole step, at a learning rate of 1 that only the schedule lowers.
        # There is one a rollout, and each is recorded, if any is.
        value = self.config.optim
        whole = OptimConfig(
            "sgd",
            lr=1.0,
            schedule=value.schedule,
            final_lr=value.final_lr / value.lr,
            schedule_steps=value.schedule_steps,
            warmup_steps=value.warmup_steps,
            stats_every=min(1, value.stats_every),
        )
        self.learner = self.new_learner("policy", whole, network=self.network)
        self.value_learner = self.new_learner("value", critic=self.critic)
        self.memory = Rollout(self.config.rollout_size, device=self.device)

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        return acting.begin(self.policy, self.network, count, explore, rng)

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        return acting.draw(self.policy, self.network, obs, carried, explore, rng)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.critic(obs)["value"]

    def update(self, batch: Transition) -> Metrics:
        noise = self.network.sample_noise(tuple(batch.reward.shape), self.noise) or []
        with torch.no_grad():  # as the policy was when it acted
            output = self.network(batch.obs, noise)["policy"]
            log_prob = self.policy.log_prob(output, batch.action)
            value = self.critic(batch.obs)["value"]
            next_value = self.critic(batch.next_obs)["value"]
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
        columns = (batch.obs, batch.action, output, log_prob, advantage, *noise)
        share, kl, skipped = self.improve([x[batch.valid] for x in columns])
        if not skipped:
            self.fit(batch.obs[batch.valid], returns[batch.valid])
        return {
            "explained_variance": losses.explained_variance(value, returns, batch.valid),
            "policy_entropy": float(self.policy.entropy(output)[batch.valid].mean()),
            "kl": kl,
            "step_share": share,
        }

    def improve(self, data: list[Tensor]) -> tuple[float, float, bool]:
        """The policy's step: along F⁻¹g, to the edge of the trust region, then back if need be.

        Returns the share of the step that was taken, how far it led in nats, and whether the
        learner refused it.
        """
        terms, _ = self.learner.gradient(self.policy_loss, *data)
        gradient = self.learner.flat.gradient
        if not (gradient.isfinite().all() and terms["policy"].isfinite()):
            return 0.0, 0.0, self.learner.step_along(gradient, terms).skipped
        direction = self.natural(gradient, data)
        share, kl = self.line_search(self.learner.lr * direction, float(terms["policy"]), data)
        if share == 0.0:
            return share, kl, False
        return share, kl, self.learner.step_along(share * direction, terms).skipped

    def natural(self, gradient: Tensor, data: list[Tensor]) -> Tensor:
        """F⁻¹g, as long as the trust region reaches: ½ xᵀF x = max_kl (appendix C)."""
        c, (obs, _, output, _, _, *noise) = self.config, data
        hessian = self.learner.hessian(self.divergence, obs, output, *noise)

        def fisher(vector: Tensor) -> Tensor:
            return hessian(vector) + c.damping * vector

        x = conjugate_gradients(fisher, gradient, c.cg_steps)
        curvature = x.dot(fisher(x)).clamp(min=TINY)
        return x * torch.sqrt(2.0 * c.max_kl / curvature)

    @torch.no_grad()
    def line_search(
        self, direction: Tensor, surrogate: float, data: list[Tensor]
    ) -> tuple[float, float]:
        """The largest share of a step that improves the policy within the trust region.

        Returns it with the divergence that it leads to; 0 where there is none.
        """
        c, here = self.config, self.learner.flat.vector
        evaluate = self.learner.functional(self.policy_loss)
        share = 1.0
        for _ in range(c.backtracks + 1):
            terms, aux = evaluate(here - share * direction, *data)
            kl = float(aux["kl"])
            if c.backtracks == 0 or (kl <= c.max_kl and float(terms["policy"]) < surrogate):
                return share, kl
            share *= c.shorter
        return 0.0, 0.0

    def fit(self, obs: Tensor, returns: Tensor) -> None:
        """Epochs of minibatches in which the value learns the returns."""
        minibatches = max(1, round(len(obs) / self.config.batch_size))
        for _ in range(self.config.epochs):
            order = torch.from_numpy(self.rng.permutation(len(obs))).to(self.device)
            for rows in order.tensor_split(minibatches):
                noise = self.critic.sample_noise((len(rows),), self.noise)
                step = self.value_learner.minimize(self.value_loss, obs[rows], returns[rows], noise)
                if step.skipped:
                    return

    def policy_loss(
        self,
        obs: Tensor,
        action: Tensor,
        old_output: Tensor,
        old_log_prob: Tensor,
        advantage: Tensor,
        *noise: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """-E[π(a|s) / π_old(a|s) A] (eq. 14), and the mean KL(π_old, π) beside it."""
        output = self.network(obs, noise)["policy"]
        ratio = torch.exp(self.policy.log_prob(output, action) - old_log_prob)
        kl = self.policy.kl(old_output, output).mean()
        return {"policy": -(ratio * advantage).mean()}, {"kl": kl.detach()}

    def divergence(
        self, obs: Tensor, old_output: Tensor, *noise: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean KL(π_old, π); where they are one its Hessian is the Fisher matrix (appendix C)."""
        output = self.network(obs, noise)["policy"]
        return {"kl": self.policy.kl(old_output, output).mean()}, {}

    def value_loss(
        self, obs: Tensor, returns: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        value = self.critic(obs, noise)["value"]
        aux = {"prediction": value.detach(), "target": returns}
        return {"value": losses.squared(value, returns).mean()}, aux


@dataclass(frozen=True)
class NPGConfig(TRPOConfig):
    """Kakade 2001, "A natural policy gradient"."""

    backtracks: int = 0


class NPG(TRPO):
    """TRPO without a line search."""

    name, Config = "npg", NPGConfig
