"""DQN: deep Q-learning from replay with a target network, and the extensions of it.

Mnih et al. 2015, "Human-level control through deep reinforcement learning". Each extension is a
field of the config: double (van Hasselt et al. 2016), dueling (Wang et al. 2016), n-step returns
(Sutton 1988), prioritised replay (Schaul et al. 2016), noisy layers (Fortunato et al. 2018) and
Munchausen rewards (Vieillard et al. 2020), and so is exploration. What a value is, a number or a
distribution, is a field too: C51, QR-DQN, IQN and Rainbow, at the end, are DQN with other defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from agents import targets
from agents.agent import Agent, AgentConfig, Carried, Metrics
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import boltzmann, epsilon_greedy, ez_greedy
from agents.memory import Replay
from agents.values import Representation, of_action, value_of
from envs.transition import Transition


def _network(noisy: bool = False) -> NetworkConfig:
    return NetworkConfig((256, 256), activation="relu", noisy=noisy)


@dataclass(frozen=True)
class DQNConfig(AgentConfig):
    """What DQN can be told, beside what every agent can."""

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
    n_step: int = 1
    """Rewards that are summed before the value of what follows is taken for the rest."""
    priority_exponent: float = 0.0
    """How much more often a transition with a larger error is drawn, α; 0: all alike."""
    importance_exponent: float = 0.4
    """How much of that its weight in the loss makes good, β, at the start; 1 is all of it."""
    importance_steps: int = 100_000
    """Environment steps over which β rises to 1."""
    value: Representation = "scalar"
    """What the worth of an action is: a number; a histogram, learned as the distribution of returns
    (categorical) or from their expectation (hl_gauss); fixed or implicit quantiles."""
    atoms: int = 51
    """Bins of a histogram, or quantiles; a scalar has none."""
    v_min: float = 0.0
    """The least return of a histogram; with normalize_reward, of rewards as they are scaled."""
    v_max: float = 100.0
    """The largest return of a histogram, likewise. With hl_gauss leave room: what is smeared out is
    cut off at either end, and a value within a bin or two of it is learned as a little further
    inside."""
    double: bool = True
    """Let the online network choose the next action that the target network values."""
    dueling: bool = False
    """Learn the value of a state and the advantages of its actions apart."""
    munchausen: bool = False
    """Add the log-probability of the action to the reward, and soften the maximum."""
    loss: Literal["huber", "squared"] = "huber"
    """What is made of the TD error of a scalar value."""
    target_every: int = 100
    """Updates from one move of the target network to the next."""
    tau: float = 1.0
    """How far the target network then moves towards the online one; 1 copies it."""
    exploration: Literal["epsilon_greedy", "boltzmann", "ez_greedy"] = "epsilon_greedy"
    """How others than the best action are tried; ez_greedy keeps to one for a while."""
    epsilon_start: float = 1.0
    """Probability of a random action, with ez_greedy of beginning one, at the start. Noisy layers
    explore beside it: 0 here and at the end leaves that to them."""
    epsilon_end: float = 0.05
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 10_000
    """Environment steps over which it is reduced, linearly."""
    temperature: float = 1.0
    """With boltzmann: actions are drawn with probability proportional to exp(Q / temperature)."""
    duration_exponent: float = 2.0
    """With ez_greedy: a random action lasts n steps with probability proportional to 1 / n to the
    power of this; the larger, the shorter."""
    network: NetworkConfig = field(default_factory=_network)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_replay()
        for name in ("target_every", "atoms"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        self.check_exploration()
        if self.value in ("categorical", "hl_gauss"):
            for name in ("v_min", "v_max"):
                self.require(name, math.isfinite(getattr(self, name)), "a finite number")
            self.require("v_max", self.v_max > self.v_min, f"more than v_min, {self.v_min}")
            self.require("atoms", self.atoms >= 2, "2 or more")
        else:
            self.require_default(f"with value {self.value}, no histogram", "v_min", "v_max")
        if self.value == "scalar":
            self.require_default("on a scalar value", "atoms")
        else:
            self.require_default(f"with value {self.value}", "loss")
        if self.priority_exponent == 0:
            self.require_default("without priorities", "importance_exponent", "importance_steps")
        if self.epsilon_start == self.epsilon_end == 0:
            begun = self.exploration != "ez_greedy"
            self.require("exploration", begun, "it with an epsilon above 0, which begins actions")
            explores = self.exploration == "boltzmann" or self.network.noisy
            what = (
                "an epsilon above 0 at the start or the end, network.noisy or boltzmann to explore"
            )
            self.require("epsilon_start", explores, what)
        if self.munchausen:
            plain = self.value == "scalar" and not self.double and self.n_step == 1
            self.require("munchausen", plain, "it with a scalar value, double=False and n_step=1")


class DQN(Agent):
    """Discrete actions, any number of environments."""

    name = "dqn"
    Config = DQNConfig
    config: DQNConfig
    memory: Replay
    noisy = True

    def build(self) -> None:
        c = self.config
        self.value = value_of(c.value, c.loss, c.atoms, c.v_min, c.v_max, self.device)
        self.network = self.new_network({"q": self.value.head(self.discrete_actions(), c.dueling)})
        self.learner = self.new_learner(self.name, network=self.network)
        self.target = self.new_target(self.learner)
        self.memory = self.new_replay(
            frames=c.frames,
            n_step=c.n_step,
            priority_exponent=c.priority_exponent,
            importance_exponent=c.importance_exponent,
            importance_steps=c.importance_steps,
        )

    def begin(self, count: int, explore: bool, rng: np.random.Generator) -> Carried:
        if explore and self.config.exploration == "ez_greedy":
            return {"last": np.zeros(count, np.int64), "left": np.zeros(count, np.int64)}
        return {}

    def carry_on(
        self, obs: Tensor, carried: Carried, explore: bool, rng: np.random.Generator
    ) -> np.ndarray:
        c = self.config
        noise = self.network.sample_exploration(rng) if explore else None
        q = self.q_values(obs, noise).cpu().numpy()
        if carried:
            last, left = carried["last"], carried["left"]
            last[:], left[:] = ez_greedy(q, self.epsilon, c.duration_exponent, last, left, rng)
            return last.copy()
        if explore and c.exploration == "boltzmann":
            return boltzmann(q, c.temperature, rng)
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def q_values(self, obs: Tensor, noise: list[Tensor] | None = None) -> Tensor:
        """The expected return of every action, `(..., A)`."""
        tau = self.value.fixed_fractions(obs.device)
        return self.value.expectation(self.network(obs, noise, tau=tau)["q"])

    def estimate(self, obs: Tensor) -> Tensor:
        return self.q_values(obs).amax(-1)

    def update(self, batch: Transition) -> Metrics:
        obs, next_obs = self.normalized(batch.obs), self.normalized(batch.next_obs)
        target = self.td_target(batch, obs, next_obs)
        noise = self.network.sample_noise((len(obs),), self.noise)
        tau = self.value.fractions(len(obs), self.noise)
        weight = batch.extras.get("weight")
        step = self.learner.minimize(self.loss, obs, batch.action, target, weight, tau, noise)
        if not step.skipped:
            if weight is not None:
                self.memory.reprioritize(batch.extras["index"], step.aux["priority"])
            if self.learner.updates % self.config.target_every == 0:
                self.target.follow(self.config.tau)
        return {} if self.config.exploration == "boltzmann" else {"epsilon": self.epsilon}

    @torch.no_grad()
    def td_target(self, batch: Transition, obs: Tensor, next_obs: Tensor) -> Tensor:
        """What r + γ max_a Q_target(s', a) looks like, `(B,)` or for distributions `(B, n)`."""
        c, target_network = self.config, self.target.modules["network"]
        reward, discount = self.scaled(batch.reward), batch.discount(c.gamma)
        output = self.output(target_network, next_obs)
        if c.munchausen:
            q = self.output(target_network, obs)
            return targets.munchausen(reward, discount, q, batch.action, output)
        # Quantiles that were drawn to be learned from would flatter the action they choose.
        tau = self.value.fixed_fractions(self.device)
        chooser = self.network if c.double else target_network
        same = chooser is target_network and tau is None
        selector = output if same else self.output(chooser, next_obs, tau)
        action = self.value.expectation(selector).argmax(-1)
        return self.value.target(reward, discount, of_action(output, action))

    def output(self, network: nn.Module, obs: Tensor, tau: Tensor | None = None) -> Tensor:
        """What a network says of every action, noisy layers drawn anew, at quantile fractions `tau`
        or at new ones."""
        noise = self.network.sample_noise((len(obs),), self.noise) if self.network.noisy else None
        tau = self.value.fractions(len(obs), self.noise) if tau is None else tau
        return network(obs, noise, tau=tau)["q"]

    def loss(
        self,
        obs: Tensor,
        action: Tensor,
        target: Tensor,
        weight: Tensor | None,
        tau: Tensor | None,
        noise: list[Tensor] | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        taken = of_action(self.network(obs, noise, tau=tau)["q"], action)
        error = self.value.loss(taken, target, tau)
        detached = taken.detach()
        q = self.value.expectation(detached)
        aux = {"prediction": q, "target": self.value.target_mean(target), "q": q.mean()}
        if weight is not None:
            error = weight * error
            aux["priority"] = self.value.error(detached, target)
        return {"td": error.mean()}, aux


# DQN by other names: each only says where it begins. -------------------------------------------


@dataclass(frozen=True)
class C51Config(DQNConfig):
    """Bellemare et al. 2017, "A distributional perspective on reinforcement learning"."""

    value: Representation = "categorical"
    double: bool = False


class C51(DQN):
    """DQN over a histogram of the return."""

    name, Config = "c51", C51Config


@dataclass(frozen=True)
class QRDQNConfig(DQNConfig):
    """Dabney et al. 2018, "Distributional reinforcement learning with quantile regression"."""

    value: Representation = "quantile"
    atoms: int = 25
    double: bool = False


class QRDQN(DQN):
    """DQN over fixed quantiles of the return."""

    name, Config = "qrdqn", QRDQNConfig


@dataclass(frozen=True)
class IQNConfig(DQNConfig):
    """Dabney et al. 2018, "Implicit quantile networks for distributional RL"."""

    value: Representation = "implicit_quantile"
    atoms: int = 8
    double: bool = False


class IQN(DQN):
    """DQN over quantiles of the return at any fraction."""

    name, Config = "iqn", IQNConfig


@dataclass(frozen=True)
class RainbowConfig(DQNConfig):
    """Hessel et al. 2018, "Rainbow: combining improvements in deep reinforcement learning"."""

    value: Representation = "categorical"
    dueling: bool = True
    n_step: int = 3
    priority_exponent: float = 0.5
    epsilon_start: float = 0.0
    epsilon_end: float = 0.0
    network: NetworkConfig = field(default_factory=lambda: _network(noisy=True))


class Rainbow(DQN):
    """DQN with all of double, dueling, n-step, priorities, noisy layers and a histogram."""

    name, Config = "rainbow", RainbowConfig
