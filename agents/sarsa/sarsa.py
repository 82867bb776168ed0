"""Deep SARSA: on-policy TD control. One-step, n-step and SARSA(λ), each of them expected or not.

Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems"; van Seijen et al. 2009,
"A theoretical and empirical analysis of expected Sarsa"; Sutton & Barto 2018, chapters 7 and 12.
With a network and parallel environments in place of a replay as in Mnih et al. 2016.

    SARSA                  the defaults
    expected SARSA         expected=True
    n-step SARSA           n_step=3
    SARSA(λ)               td_lambda=0.9
    expected SARSA(λ), …   expected=True with either
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import (
    boltzmann,
    boltzmann_probabilities,
    epsilon_greedy,
    epsilon_greedy_probabilities,
)
from agents.memory import Rollout
from envs.transition import Transition


@dataclass(frozen=True)
class SARSAConfig(AgentConfig):
    """What deep SARSA can be told, beside what every agent can."""

    expected: bool = False
    """Value a next state by the policy's expectation (expected SARSA), not by the next action."""
    n_step: int = 1
    """Rewards in a target, before the value of the state they lead to. A rollout has as
    many steps of each environment, or more."""
    td_lambda: float = 0.0
    """λ of SARSA(λ): targets mix those of all n, nearer 1 the longer ones; 0 is one step."""
    rollout_size: int = 32
    """Transitions in each update, over all environments. No target reaches beyond them."""
    epochs: int = 1
    """Updates on each rollout, before it is forgotten."""
    dueling: bool = False
    """Learn the value of a state and the advantages of its actions apart (Wang et al. 2016)."""
    loss: Literal["huber", "squared"] = "huber"
    """What is made of the TD error."""
    target_every: int = 100
    """Updates from one move of the target network to the next."""
    tau: float = 1.0
    """How far the target network then moves towards the online one; 1 copies it."""
    exploration: Literal["epsilon_greedy", "boltzmann"] = "epsilon_greedy"
    """How actions are drawn from their values; the values learned are those of this policy."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start, with epsilon_greedy."""
    epsilon_end: float = 0.02
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 20_000
    """Environment steps over which it is reduced, linearly."""
    temperature: float = 1.0
    """With boltzmann: actions are drawn with probability proportional to exp(Q / temperature)."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((128, 128), activation="relu", norm="layer")
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_step", "rollout_size", "epochs", "target_every"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("n_step", self.n_step <= self.rollout_size, "rollout_size or less")
        self.require("td_lambda", 0 <= self.td_lambda <= 1, "a number in [0, 1]")
        mixes = self.td_lambda == 0 or self.rollout_size > 1
        self.require("td_lambda", mixes, "0 with rollout_size 1, or more transitions in a rollout")
        if self.n_step > 1 and self.td_lambda > 0:
            raise ValueError(
                f"n_step is {self.n_step} and td_lambda {self.td_lambda}: a target has n steps or "
                "a mixture of all, use n_step 1 or td_lambda 0"
            )
        self.require("tau", 0 < self.tau <= 1, "a number in (0, 1]")
        self.check_exploration()


class SARSA(Agent):
    """Discrete actions, any number of environments."""

    name = "sarsa"
    Config = SARSAConfig
    config: SARSAConfig
    memory: Rollout

    def build(self) -> None:
        c = self.config
        self.network = self.new_network(
            {"q": Head(self.discrete_actions(), masked=True, dueling=c.dueling)}
        )
        self.learner = self.new_learner("sarsa", network=self.network)
        self.target = self.new_target(self.learner)
        self.memory = Rollout(c.rollout_size, next_action=not c.expected, device=self.device)

    def check_envs(self, num_envs: int) -> None:
        c = self.config
        self.memory.check_steps(num_envs, f"n_step {c.n_step}", c.n_step)
        if c.td_lambda > 0:
            self.memory.check_steps(num_envs, f"td_lambda {c.td_lambda}", 2)

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        return self.draw(self.network(obs)["q"].cpu().numpy(), explore, rng)

    def draw(self, q: np.ndarray, explore: bool, rng: np.random.Generator) -> np.ndarray:
        """Actions `(N,)` from values `(N, A)`, drawn from the policy where it explores."""
        if explore and self.config.exploration == "boltzmann":
            return boltzmann(q, self.config.temperature, rng)
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def policy(self, q: Tensor) -> Tensor:
        """π(a|s) `(..., A)` from values `(..., A)`: the policy that acts and that is valued."""
        if self.config.exploration == "boltzmann":
            return boltzmann_probabilities(q, self.config.temperature)
        return epsilon_greedy_probabilities(q, self.epsilon)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs)["q"].amax(-1)

    def update(self, batch: Transition) -> Metrics:
        next_action = None if self.config.expected else self.next_action(batch)
        noise_shape = (int(batch.valid.sum()),)
        for _ in range(self.config.epochs):
            target = self.td_target(batch, next_action)
            inputs = [x[batch.valid] for x in (batch.obs, batch.action, target)]
            noise = self.network.sample_noise(noise_shape, self.noise)
            step = self.learner.minimize(self.loss, *inputs, noise)
            if step.skipped:
                break
            if self.learner.updates % self.config.target_every == 0:
                self.target.follow(self.config.tau)
        return {} if self.config.exploration == "boltzmann" else {"epsilon": self.epsilon}

    @torch.no_grad()
    def next_action(self, batch: Transition) -> Tensor:
        """The action taken in `next_obs`, `(T, N)`.

        After a truncation none was taken: the policy draws one at the true successor. After a
        termination none counts.
        """
        cut = batch.truncated & batch.valid
        if not cut.any():
            return batch.extras["next_action"]
        q = self.network(batch.next_obs[cut])["q"].cpu().numpy()
        action = batch.extras["next_action"].clone()
        action[cut] = torch.from_numpy(self.draw(q, True, self.rng)).to(action)
        return action

    @torch.no_grad()
    def td_target(self, batch: Transition, next_action: Tensor | None) -> Tensor:
        """The n-step or the λ-return, `(T, N)`, for the policy that acts: that is on-policy."""
        c = self.config
        next_q = self.target.modules["network"](batch.next_obs)["q"]
        if next_action is not None:
            next_value = targets.action_value(next_q, next_action)  # Q-learning: next_q.amax(-1)
        else:
            policy = self.policy(self.network(batch.next_obs)["q"])
            next_value = targets.expected_value(next_q, policy)
        rows = self.scaled(batch.reward), batch.discount(c.gamma), next_value, batch.done
        if c.n_step > 1:
            return targets.n_step_returns(*rows, c.n_step)
        return targets.lambda_returns(*rows, c.td_lambda)

    def loss(
        self, obs: Tensor, action: Tensor, target: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = targets.action_value(self.network(obs, noise)["q"], action)
        error = losses.huber if self.config.loss == "huber" else losses.squared
        prediction = q.detach()
        aux = {"q": prediction.mean(), "prediction": prediction, "target": target}
        return {"td": error(q, target).mean()}, aux
