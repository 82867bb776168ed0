"""Stream Q(λ): deep Q-learning from each transition as it comes, by eligibility traces.

Elsayed, Vasan & Mahmood 2024, "Streaming deep reinforcement learning finally works"; the traces are
those of Watkins 1989, "Learning from delayed rewards". No replay, no target network, no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents import targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import epsilon_greedy
from agents.memory import Stream
from agents.traces import Traces, check_optim
from envs.transition import Transition


@dataclass(frozen=True)
class StreamQConfig(AgentConfig):
    """What stream Q(λ) can be told, beside what every agent can."""

    lambda_: float = 0.8
    """Decay of the trace, beside gamma's: 0 gives one-step Q-learning."""
    kappa: float | None = 2.0
    """Bounds every step so that it does not overshoot, the more so the larger; None: no bound."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start."""
    epsilon_end: float = 0.01
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 25_000
    """Environment steps over which it is reduced, linearly."""
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


class StreamQ(Agent):
    """Discrete actions. Any number of environments: an update and a trace for each in turn."""

    name = "stream_q"
    Config = StreamQConfig
    config: StreamQConfig

    def build(self) -> None:
        self.network = self.new_network({"q": Head(self.discrete_actions(), masked=True)})
        self.learner = self.new_learner("stream_q", network=self.network)
        self.traces = Traces(self.learner, self.config.kappa)
        self.memory = Stream(device=self.device)

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        q = self.network(obs)["q"].cpu().numpy()
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs)["q"].amax(-1)

    def update(self, batch: Transition) -> Metrics:
        obs = torch.cat([batch.obs, batch.next_obs])
        noise = self.network.sample_noise((2,), self.noise)
        _, aux = self.learner.gradient(self.loss, obs, batch.action, noise)
        q, next_q = aux["q"], aux["values"][1:]
        delta = self.td_target(batch, next_q).squeeze(0) - q
        # What was done before is not credited with what an action of another policy led to: the cut
        # comes before the update of an action that is not greedy, which is credited with its own.
        # Greedy is what is best as one acts, without dropout and in float32, by weights that other
        # environments may have moved.
        as_acting = noise is None and self.config.optim.precision == "float32"
        values = aux["values"][:1] if as_acting else self.network(batch.obs)["q"].detach()
        worse = targets.action_value(values, batch.action) < values.amax(-1)
        cut = batch.extras["first"] | worse
        decay = self.config.gamma * self.config.lambda_ * ~cut
        self.traces.step(int(batch.extras["env"]), delta, decay, aux)
        return {"epsilon": self.epsilon}

    def td_target(self, batch: Transition, next_q: Tensor) -> Tensor:
        """r + γ max_a Q(s', a), `(1,)`, from Q(s', ·) `(1, A)`."""
        reward, discount = self.scaled(batch.reward), batch.discount(self.config.gamma)
        return targets.q_learning(reward, discount, next_q)

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
