"""Bootstrapped DQN with randomised prior functions: an ensemble whose disagreement explores.

Osband, Blundell, Pritzel & Van Roy 2016, "Deep exploration via bootstrapped DQN"; Osband,
Aslanides & Cassirer 2018, "Randomized prior functions for deep reinforcement learning".

Member k values actions by Q_k = f_k + scale · p_k: a trained network and a random one that stays
as it was drawn. Where there is data f_k makes up for p_k; elsewhere the members differ, and some
take what they have not seen for good. Each environment follows one member through a whole episode,
which carries out a plan of many steps, as random actions do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core.network import Head, Network, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.core.seeding import stream
from agents.memory import Replay
from envs.transition import Transition


@dataclass(frozen=True)
class BootstrappedDQNConfig(AgentConfig):
    """What bootstrapped DQN can be told, beside what every agent can."""

    members: int = 10
    """Q-networks in the ensemble, each with a prior and a target network of its own."""
    prior_scale: float = 3.0
    """What the priors are multiplied by, in the units of a return; 0 leaves them out."""
    mask_probability: float = 1.0
    """Probability that a member learns from a transition at all; 1: all learn from everything."""
    buffer_size: int = 100_000
    """Transitions the replay holds."""
    batch_size: int = 64
    """Transitions in each update, the same for all members."""
    learning_starts: int = 1_000
    """Transitions collected before the first update."""
    updates_per_step: float = 0.5
    """Updates for each environment step, whatever the number of environments."""
    train_every: int = 1
    """Environment steps from one burst of the updates due to the next."""
    frames: int = 1
    """Frames that an observation is a stack of; each is then stored once."""
    double: bool = True
    """Let each online network choose the next action that its target network values."""
    loss: Literal["huber", "squared"] = "huber"
    """What is made of the TD error."""
    target_every: int = 100
    """Updates from one move of the target networks to the next."""
    tau: float = 1.0
    """How far the target networks then move towards the online ones; 1 copies them."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((64, 64), activation="relu", shared_trunk=False)
    )
    """Each member's network; with shared_trunk they have one trunk and a head each (2016)."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        self.require("members", self.members >= 2, "2 or more")
        self.require("prior_scale", self.prior_scale >= 0, "0 or more")
        self.require("mask_probability", 0 < self.mask_probability <= 1, "a probability in (0, 1]")
        self.require("target_every", self.target_every >= 1, "1 or more")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")


class BootstrappedDQN(Agent):
    """Discrete actions, any number of environments. Greedily it acts by the members' mean Q."""

    name = "bootstrapped_dqn"
    Config = BootstrappedDQNConfig
    config: BootstrappedDQNConfig
    memory: Replay

    def build(self) -> None:
        c = self.config
        heads = {"q": Head(self.discrete_actions(), masked=True, members=c.members)}
        self.network = self.new_network(heads)
        fixed = Network(self.observation_space, heads, replace(c.network, dropout=0.0), self._init)
        self.prior = Prior(fixed, c.prior_scale, self._init).to(self.device)
        self.learner = self.new_learner(self.name, network=self.network, prior=self.prior)
        self.target = self.new_target(self.learner)
        self.memory = self.new_replay(
            frames=c.frames,
            numbered=True,  # what a transition's mask is drawn by
        )

    def q(self, obs: Tensor) -> Tensor:
        """Each member's values `(K, N, A)` of observations `(N, size)`."""
        return self.network(obs)["q"] + self.prior(obs)

    def q_values(self, obs: Tensor) -> Tensor:
        """The members' mean of the expected return of every action, `(N, A)`."""
        return self.q(obs).mean(0)

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        return {"member": rng.integers(self.config.members, size=count)} if explore else {}

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        if not carried:
            return self.q_values(obs).argmax(-1).cpu().numpy()
        return self.q(obs).argmax(-1).cpu().numpy()[carried["member"], np.arange(len(obs))]

    def estimate(self, obs: Tensor) -> Tensor:
        return self.q_values(obs).amax(-1)

    def update(self, batch: Transition) -> Metrics:
        c = self.config
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        prior, next_prior = self.prior(torch.cat([obs, next_obs])).chunk(2, dim=1)
        target = self.td_target(batch, next_obs, next_prior)
        mask = bootstrap_mask(batch.extras["index"], c.members, c.mask_probability, self.seed)
        mask = mask.to(self.device)
        noise = self.network.sample_noise((len(obs),), self.noise)
        step = self.learner.minimize(self.loss, obs, batch.action, prior, target, mask, noise)
        if not step.skipped and self.learner.updates % c.target_every == 0:
            self.target.follow(c.tau)
        return {}

    @torch.no_grad()
    def td_target(self, batch: Transition, next_obs: Tensor, next_prior: Tensor) -> Tensor:
        """r + γ max_a Q_target,k(s', a) for each member k, `(K, B)`, or the double form of it."""
        next_q = self.target.modules["network"](next_obs)["q"] + next_prior
        reward = self.scaled(batch.reward).expand(next_q.shape[:-1])
        discount = batch.discount(self.config.gamma).expand(next_q.shape[:-1])
        if self.config.double:
            selector_q = self.network(next_obs)["q"] + next_prior
            return targets.double_q_learning(reward, discount, next_q, selector_q)
        return targets.q_learning(reward, discount, next_q)

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        prior: Tensor,
        target: Tensor,
        mask: Tensor,
        noise: list[Tensor] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The mean over members and transitions of the error, 0 where the mask is."""
        every_q = self.network(obs, noise)["q"] + prior  # (K, B, A)
        q = every_q.gather(-1, action.expand(target.shape).unsqueeze(-1)).squeeze(-1)
        error = losses.huber if self.config.loss == "huber" else losses.squared
        aux = {
            "q": q.detach().mean(),
            "q_spread": q.detach().std(0).mean(),  # what there still is to explore, as they see it
            "prediction": q.detach(),
            "td_error": (target - q).detach(),
        }
        return {"td": (mask * error(q, target)).mean()}, aux


class Prior(nn.Module):
    """K random functions that nobody trains: a network's heads "q" times a scale, `(K, B, A)`.

    Its weights are buffers: they lie beside the learner's weights, not among them, and are saved,
    resumed and copied to the target with it.
    """

    def __init__(self, network: Network, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        for layer in network.modules():
            frozen = {n: w.detach() for n, w in layer.named_parameters(recurse=False)}
            if "bias" in frozen:  # a bias of 0 would make every prior 0 where the observation is
                bound = (frozen["bias"].numel() / frozen["weight"].numel()) ** 0.5  # 1 / √inputs
                frozen["bias"].uniform_(-bound, bound, generator=generator)
            for name, weight in frozen.items():
                delattr(layer, name)
                layer.register_buffer(name, weight)

    def forward(self, obs: Tensor) -> Tensor:
        return self.scale * self.network(obs)["q"]


def bootstrap_mask(index: Tensor, members: int, probability: float, seed: int) -> Tensor:
    """Which members learn from which transitions, `(K, B)` of 0 and 1: Bernoulli(probability).

    A hash of the seed, the member and the transition's number `(B,)` decides: nothing is stored,
    and a transition that is drawn again has the mask that it had. The hash is the finaliser of
    SplitMix64 (Steele, Lea & Flood 2014).
    """
    if probability >= 1.0:
        return torch.ones(members, len(index), device=index.device)
    own = stream(seed, "bootstrap").integers(2**64, size=(members, 1), dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = own + index.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    uniform = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((uniform < probability).astype(np.float32)).to(index.device)
