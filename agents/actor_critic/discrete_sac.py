"""Discrete SAC: soft actor-critic where the actions can be counted.

Christodoulou 2019, "Soft actor-critic for discrete action settings". The critics value every action
at once, and the policy says how probable each is: what SAC estimates from an action that it draws,
the value of the next state, the actor's loss and the entropy, is here an exact sum over actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.distributions import Categorical
from agents.core.learner import Step
from agents.core.network import Head, NetworkConfig, forbidden
from agents.core.optimizers import OptimConfig
from agents.memory import Replay
from envs.transition import Transition


@dataclass(frozen=True)
class DiscreteSACConfig(AgentConfig):
    """What discrete SAC can be told, beside what every agent can."""

    buffer_size: int = 1_000_000
    """Transitions the replay holds."""
    batch_size: int = 64
    """Transitions in each update."""
    learning_starts: int = 1_000
    """Transitions collected before the first update, by a policy that begins close to uniform."""
    updates_per_step: float = 0.25
    """Updates of the critics for each environment step, whatever the number of environments."""
    train_every: int = 1
    """Environment steps from one burst of the updates due to the next."""
    policy_every: int = 1
    """Updates of the critics from one of the actor and the temperature to the next."""
    tau: float = 0.005
    """How far the target critics move towards the online ones in each update; 1 copies them."""
    critics: int = 2
    """Critics, of which the least value of an action counts; each has a target network."""
    temperature: float | None = None
    """What a nat of entropy is worth, in units of reward; None: learned."""
    initial_temperature: float = 1.0
    """Where a learned temperature begins. With small rewards, as with normalize_reward, better
    small too, say 0.01: else values begin with an entropy that outweighs all reward."""
    target_entropy: float = 0.98
    """The entropy that a learned temperature holds, as a share of the largest there can be, which
    is the logarithm of the number of actions."""
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
        self.require("target_entropy", 0 <= self.target_entropy <= 1, "a share in [0, 1]")
        self.check_temperature()


class DiscreteSAC(Agent):
    """Discrete actions, any number of environments."""

    name = "discrete_sac"
    Config = DiscreteSACConfig
    config: DiscreteSACConfig
    memory: Replay

    def build(self) -> None:
        c, actions = self.config, self.discrete_actions()
        self.refuse_trunk()
        self.policy = Categorical(actions)
        self.network = self.new_network({"policy": self.policy.head})
        self.critics = self.new_network({"q": Head(actions, members=c.critics)}, c.critic_network)
        self.critic_learner = self.new_learner("critic", c.critic_optim, critics=self.critics)
        self.actor_learner = self.new_learner("actor", network=self.network)
        self.target = self.new_target(self.critic_learner)
        self.temperature, self.temperature_learner = self.new_temperature(
            c.temperature, c.initial_temperature
        )
        self.memory = self.new_replay()

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        logits = self.network(obs)["policy"].cpu().numpy()
        return self.policy.sample(logits, rng) if explore else self.policy.mode(logits)

    def q_values(self, obs: Tensor) -> Tensor:
        """The least that any critic expects of every action, entropy to come included, `(B, A)`."""
        return self.critics(obs)["q"].amin(0)

    def estimate(self, obs: Tensor) -> Tensor:
        """What the critics expect of the likeliest action, entropy to come included."""
        likeliest = self.network(obs)["policy"].argmax(-1)
        return targets.action_value(self.q_values(obs), likeliest)

    def update(self, batch: Transition) -> Metrics:
        c, lead = self.config, (len(batch.reward),)
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, next_obs)
        dropout = self.critics.sample_noise(lead, self.noise)
        step = self.critic_learner.minimize(self.critic_loss, obs, batch.action, target, dropout)
        if not step.skipped and self.critic_learner.updates % c.policy_every == 0:
            step = self.improve(obs)
        if not step.skipped:
            self.target.follow(c.tau)
        return {"temperature": float(self.temperature().detach())}

    def improve(self, obs: Tensor) -> Step:
        """One step of the actor, and of the temperature towards the entropy that it is to hold."""
        with torch.no_grad():
            q, temperature = self.q_values(obs), self.temperature()
        dropout = self.network.sample_noise((len(obs),), self.noise)
        step = self.actor_learner.minimize(self.actor_loss, obs, q, temperature, dropout)
        if self.temperature_learner is not None and not step.skipped:
            step = self.temperature_learner.minimize(self.temperature_loss, step.aux["excess"])
        return step

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor) -> Tensor:
        """r + γ Σ_a π(a|s') (min_k Q_target,k(s', a) - α log π(a|s')), `(B,)`."""
        logits = self.network(next_obs)["policy"]
        dropout = self.critics.sample_noise((len(next_obs),), self.noise)
        q = self.target.modules["critics"](next_obs, dropout)["q"].amin(0)
        discount = batch.discount(self.config.gamma)
        entropy = self.temperature() * self.policy.entropy(logits)  # of s', as a reward for it
        reward = self.scaled(batch.reward) + discount * entropy
        return targets.expected_sarsa(reward, discount, q, logits.softmax(-1))

    def critic_loss(
        self, obs: Tensor, action: Tensor, target: Tensor, dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        every_q = self.critics(obs, dropout)["q"]  # (E, B, A)
        target = target.expand(every_q.shape[:-1])
        q = targets.action_value(every_q, action.expand(target.shape))
        found = q.detach()
        aux = {"q": found.mean(), "q_spread": found.std(0, correction=0).mean()}
        aux |= {"prediction": found, "td_error": target - found}
        return {"td": losses.squared(q, target).mean(-1).sum()}, aux

    def actor_loss(
        self, obs: Tensor, q: Tensor, temperature: Tensor, dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E Σ_a π(a|s) (α log π(a|s) - Q(s, a)), from the critics' Q `(B, A)`, which stay."""
        logits = self.network(obs, dropout)["policy"]
        entropy = self.policy.entropy(logits)
        terms = {
            "value": -targets.expected_value(q, logits.softmax(-1)).mean(),
            "entropy": -temperature * entropy.mean(),
        }
        largest = (~forbidden(logits)).sum(-1).log()
        excess = (entropy - self.config.target_entropy * largest).detach()
        return terms, {"excess": excess, "policy_entropy": entropy.detach().mean()}

    def temperature_loss(self, excess: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """E[log α (H(π) - H̄)]: α falls where the entropy is above what it is to be."""
        return {"dual": self.temperature.log * excess.mean()}, {}
