"""Stream SARSA(λ): deep SARSA from each transition as it comes, by eligibility traces.

Elsayed, Vasan & Mahmood 2024, "Streaming deep reinforcement learning finally works"; the traces are
those of Rummery & Niranjan 1994, "On-line Q-learning using connectionist systems". No replay, no
target network, no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents import targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import boltzmann, epsilon_greedy
from agents.memory import Stream
from agents.traces import Traces, check_optim
from envs.transition import Transition


@dataclass(frozen=True)
class StreamSARSAConfig(AgentConfig):
    """What stream SARSA(λ) can be told, beside what every agent can."""

    lambda_: float = 0.8
    """Decay of the trace, beside gamma's: 0 gives one-step SARSA."""
    kappa: float | None = 2.0
    """Bounds every step so that it does not overshoot, the more so the larger; None: no bound."""
    exploration: Literal["epsilon_greedy", "boltzmann"] = "epsilon_greedy"
    """How actions are drawn from their values; the values learned are those of this policy."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start, with epsilon_greedy."""
    epsilon_end: float = 0.01
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 25_000
    """Environment steps over which it is reduced, linearly."""
    temperature: float = 1.0
    """With boltzmann: actions are drawn with probability proportional to exp(Q / temperature)."""
    normalize_obs: bool = True
    normalize_reward: bool = True
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(
            (32, 32), activation="leaky_relu", norm="layer", init="sparse"
        )
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig("sgd", lr=1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("lambda_", 0 <= self.lambda_ <= 1, "a number in [0, 1]")
        self.require("kappa", self.kappa is None or self.kappa > 0, "a positive number, or None")
        self.check_exploration()
        check_optim(self.optim, self.kappa)


class StreamSARSA(Agent):
    """Discrete actions. Any number of environments: an update and a trace for each in turn."""

    name = "stream_sarsa"
    Config = StreamSARSAConfig
    config: StreamSARSAConfig

    def build(self) -> None:
        self.network = self.new_network({"q": Head(self.discrete_actions(), masked=True)})
        self.learner = self.new_learner("stream_sarsa", network=self.network)
        self.traces = Traces(self.learner, self.config.kappa)
        self.memory = Stream(next_action=True, device=self.device)

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        return self.draw(self.network(obs)["q"].cpu().numpy(), explore, rng)

    def draw(self, q: np.ndarray, explore: bool, rng: np.random.Generator) -> np.ndarray:
        """Actions `(N,)` from values `(N, A)`, drawn from the policy where it explores."""
        if explore and self.config.exploration == "boltzmann":
            return boltzmann(q, self.config.temperature, rng)
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs)["q"].amax(-1)

    def update(self, batch: Transition) -> Metrics:
        obs = torch.cat([batch.obs, batch.next_obs])
        noise = self.network.sample_noise((2,), self.noise)
        _, aux = self.learner.gradient(self.loss, obs, batch.action, noise)
        delta = self.td_target(batch, aux["values"][1:]).squeeze(0) - aux["q"]
        decay = self.config.gamma * self.config.lambda_ * ~batch.extras["first"]
        self.traces.step(int(batch.extras["env"]), delta, decay, aux)
        return {} if self.config.exploration == "boltzmann" else {"epsilon": self.epsilon}

    def td_target(self, batch: Transition, next_q: Tensor) -> Tensor:
        """r + γ Q(s', a'), `(1,)`, from Q(s', ·) `(1, A)` and the action a' that was taken in s'.

        After a truncation none was taken: the policy draws one at the true successor. After a
        termination none counts.
        """
        reward, discount = self.scaled(batch.reward), batch.discount(self.config.gamma)
        next_action = batch.extras["next_action"]
        if batch.truncated:
            drawn = self.draw(next_q.cpu().numpy(), True, self.rng)
            next_action = torch.from_numpy(drawn).to(next_action)
        return targets.sarsa(reward, discount, next_q, next_action)

    def loss(
        self, obs: Tensor, action: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """-Q(s, a), from s and s' `(2, size)` that pass through the network together.

        Its gradient is what the trace adds up; the TD error is multiplied in with each step.
        """
        values = self.network(obs, noise)["q"]  # (2, A)
        q = values[0].gather(-1, action).sum()
        return {"q": -q}, {"q": q.detach(), "values": values.detach()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"traces": self.traces.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.traces.load_state_dict(state["traces"])
