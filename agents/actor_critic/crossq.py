"""CrossQ: soft actor-critic without target networks, by batch normalisation in its critics.

Bhatt, Palenicek, Belousov, Argus, Amiranashvili, Brox & Peters 2024, "CrossQ: batch normalization
in deep reinforcement learning for greater sample efficiency and simplicity". (s, a) and (s', a') go
through the critics as one batch, so that both are normalised by the statistics of their mixture:
what the target is made of is then no stranger to the critics, and needs no network of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents import losses
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core.distributions import SquashedGaussian
from agents.core.learner import Step
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import uniform
from agents.memory import Replay
from envs.transition import Transition


@dataclass(frozen=True)
class CrossQConfig(AgentConfig):
    """What CrossQ can be told, beside what every agent can."""

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
    policy_every: int = 3
    """Updates of the critics from one of the actor and the temperature to the next."""
    critics: int = 2
    """Critics, of which the least value is the target and what the actor ascends."""
    temperature: float | None = None
    """What a nat of entropy is worth, in units of reward; None: learned."""
    initial_temperature: float = 1.0
    """Where a learned temperature begins. With small rewards, as with normalize_reward, better
    small too, say 0.01: else values begin with an entropy that outweighs all reward."""
    target_entropy: float | None = None
    """The entropy in nats, of actions in [-1, 1], that a learned temperature holds; None: -1 for
    each number of an action."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((256, 256), activation="relu", norm="batch_renorm")
    )
    """What the actor is built of."""
    critic_network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(
            (512, 512), activation="relu", norm="batch_renorm", shared_trunk=False
        )
    )
    """What the critics are built of; published are 2048 units a layer. With shared_trunk they have
    one trunk and a head each. Their normalisation stands in the place of target networks; with one
    that is not over the batch, layer or block simba, it is another agent than the published one."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.5, 0.999)))
    """How the actor and the temperature follow their gradients."""
    critic_optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.5, 0.999))
    )
    """How the critics follow theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        for name in ("policy_every", "critics"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.check_temperature()
        if (self.critic_network.norm, self.critic_network.block) == ("none", "plain"):
            raise ValueError(
                "critic_network.norm is 'none', but normalisation is what these critics have in "
                "the place of target networks: use batch_renorm"
            )


class CrossQ(Agent):
    """Actions of a bounded Box, any number of environments."""

    name = "crossq"
    Config = CrossQConfig
    config: CrossQConfig
    memory: Replay
    batch_statistics = True

    def build(self) -> None:
        c = self.config
        self.refuse_trunk()
        self.action_size = self.bounded_actions()
        self.policy = SquashedGaussian(self.action_size)
        self.actor_network = self.new_network({"policy": self.policy.head})
        heads = {"q": Head(None, members=c.critics)}
        self.critics = self.new_network(heads, c.critic_network, self.action_size)
        self.critic_learner = self.new_learner("critic", c.critic_optim, critics=self.critics)
        self.actor_learner = self.new_learner("actor", network=self.actor_network)
        self.temperature, self.temperature_learner = self.new_temperature(
            c.temperature, c.initial_temperature
        )
        self.memory = self.new_replay()

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        if explore and self.steps < self.config.learning_starts:
            return uniform(len(obs), self.action_size, rng)
        output = self.actor_network(obs)["policy"].cpu().numpy()
        return self.policy.sample(output, rng) if explore else self.policy.mode(output)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """What each critic expects of actions `(B, A)` in [-1, 1], `(E, B)`."""
        return self.critics(obs, action=action)["q"]

    def estimate(self, obs: Tensor) -> Tensor:
        """The least that a critic expects, with what entropy to come is worth in it."""
        still = self.policy.still(self.actor_network(obs)["policy"])
        return self.q_values(obs, still).amin(0)

    def update(self, batch: Transition) -> Metrics:
        c, count = self.config, len(batch.reward)
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        temperature, discount = self.temperature().detach(), batch.discount(c.gamma)
        with torch.no_grad():  # the policy as it acts, by its running statistics
            policy = self.actor_network(next_obs)["policy"]
            next_action, log_prob = self.policy.draw(policy, self.policy.noise(count, self.noise))
            reward = self.scaled(batch.reward) - discount * temperature * log_prob
        step = self.critic_learner.minimize(
            self.critic_loss,
            torch.cat([obs, next_obs]),
            torch.cat([batch.action, next_action]),
            reward,
            discount,
            self.critics.sample_noise((2 * count,), self.noise),
        )
        if not step.skipped and self.critic_learner.updates % c.policy_every == 0:
            self.improve(obs, temperature)
        return {"temperature": float(temperature)}

    def improve(self, obs: Tensor, temperature: Tensor) -> Step:
        """One step of the actor, and of the temperature towards the entropy that it is to hold."""
        nets = self.actor_network, self.critics
        dropout = [net.sample_noise((len(obs),), self.noise) for net in nets]
        inputs = obs, self.policy.noise(len(obs), self.noise), temperature, *dropout
        step = self.actor_learner.minimize(self.actor_loss, *inputs)
        if self.temperature_learner is not None and not step.skipped:
            step = self.temperature_learner.minimize(self.temperature_loss, step.aux["log_prob"])
        return step

    def critic_loss(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        dropout: list[Tensor] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The squared error to r + γ (min_k Q_k(s', a') - α log π(a'|s')), both Q in one pass.

        obs and action are those of the transitions `(B, ...)` with their successors' behind, and
        reward `(B,)` has the successor's entropy in it.
        """
        statistics: dict[str, Tensor] = {}
        both = self.critics(obs, dropout, action=action, statistics=statistics)["q"]  # (E, 2B)
        q, next_q = both.chunk(2, dim=1)
        target = reward + discount * next_q.detach().amin(0)
        error = losses.squared(q, target.expand_as(q))
        found = q.detach()
        aux = {"q": found.mean(), "q_spread": found.std(0, correction=0).mean()}
        aux |= {"prediction": found, "target": target}
        return {"td": error.mean(-1).sum()}, aux | statistics

    def actor_loss(
        self,
        obs: Tensor,
        noise: Tensor,
        temperature: Tensor,
        dropout: list[Tensor] | None,
        critic_dropout: list[Tensor] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E[α log π(a|s) - Q(s, a)] with a = tanh(μ + σ noise), through critics that stay."""
        statistics: dict[str, Tensor] = {}
        policy = self.actor_network(obs, dropout, statistics=statistics)["policy"]
        action, log_prob = self.policy.draw(policy, noise)
        q = self.critics(obs, critic_dropout, action=action)["q"]  # by running statistics
        terms = {"value": -q.amin(0).mean(), "entropy": temperature * log_prob.mean()}
        known = log_prob.detach()
        return terms, {"log_prob": known, "policy_entropy": -known.mean()} | statistics

    def temperature_loss(self, log_prob: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E[log α (H(π) - H̄)]: α falls where the entropy is above what it is to be."""
        c = self.config
        held = -float(self.action_size) if c.target_entropy is None else c.target_entropy
        return {"dual": -self.temperature.log * (log_prob.mean() + held)}, {}
