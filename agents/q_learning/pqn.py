"""PQN: parallelised Q-learning, without a replay and without a target network.

Gallici et al. 2024, "Simplifying deep temporal difference learning". Layer normalisation keeps
the values bounded that a target network would hold still; many environments take the replay's
place. Returns are those of Peng's Q(λ) (Peng & Williams 1996), or of Watkins's (Watkins 1989).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agents import losses, targets
from agents.agent import Agent, AgentConfig, Metrics
from agents.core.network import Head, NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.exploration import epsilon_greedy
from agents.memory import Rollout
from envs.transition import Transition


@dataclass(frozen=True)
class PQNConfig(AgentConfig):
    """What PQN can be told, beside what every agent can."""

    rollout_size: int = 512
    """Transitions collected before each update, over all environments. No return reaches beyond."""
    epochs: int = 4
    """Passes over each rollout."""
    batch_size: int = 128
    """Transitions in each minibatch, or nearly: a rollout is split into ones of equal size, and
    is one itself if it is smaller."""
    td_lambda: float = 0.65
    """λ of the returns: they mix those over all numbers of steps, nearer 1 the longer ones; 0 is
    one-step Q-learning."""
    watkins: bool = False
    """End a return where the action taken next was not the best (Watkins's Q(λ)); False: go on
    through it (Peng's Q(λ))."""
    epsilon_start: float = 1.0
    """Probability of a random action at the start."""
    epsilon_end: float = 0.05
    """Probability of a random action once exploration has been reduced."""
    epsilon_steps: int = 20_000
    """Environment steps over which it is reduced, linearly."""
    network: NetworkConfig = field(
        default_factory=lambda: NetworkConfig((128, 128), activation="relu", norm="layer")
    )
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, max_grad_norm=10.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_size", "epochs", "batch_size"):
            self.require(name, getattr(self, name) >= 1, "1 or more")
        self.require("td_lambda", 0 <= self.td_lambda <= 1, "a number in [0, 1]")
        mixes = self.td_lambda == 0 or self.rollout_size > 1
        self.require("td_lambda", mixes, "0 with rollout_size 1, or more transitions in a rollout")
        if self.watkins and self.td_lambda == 0:
            raise ValueError(
                "watkins is True and td_lambda 0: a one-step return has no trace to cut, use "
                "td_lambda above 0 or watkins False"
            )
        self.check_exploration()


class PQN(Agent):
    """Discrete actions, any number of environments, the more the better."""

    name = "pqn"
    Config = PQNConfig
    config: PQNConfig
    memory: Rollout

    def build(self) -> None:
        self.network = self.new_network({"q": Head(self.discrete_actions(), masked=True)})
        self.learner = self.new_learner("pqn", network=self.network)
        self.memory = Rollout(self.config.rollout_size, device=self.device)

    def check_envs(self, num_envs: int) -> None:
        c = self.config
        if c.td_lambda > 0:
            self.memory.check_steps(num_envs, f"td_lambda {c.td_lambda}", 2)

    def choose(self, obs: Tensor, explore: bool, rng: np.random.Generator) -> np.ndarray:
        q = self.network(obs)["q"].cpu().numpy()
        return epsilon_greedy(q, self.epsilon if explore else 0.0, rng)

    def estimate(self, obs: Tensor) -> Tensor:
        return self.network(obs)["q"].amax(-1)

    def update(self, batch: Transition) -> Metrics:
        c, columns = self.config, (batch.obs, batch.action, self.returns(batch))
        obs, action, target = (x[batch.valid] for x in columns)
        # One bad number spoils a whole rollout: then it is one batch, which the learner refuses.
        finite = obs.isfinite().all() and target.isfinite().all()
        minibatches = max(1, round(len(obs) / c.batch_size)) if finite else 1
        for _ in range(c.epochs):
            order = torch.from_numpy(self.rng.permutation(len(obs))).to(self.device)
            for index in order.tensor_split(minibatches):
                noise = self.network.sample_noise((len(index),), self.noise)
                step = self.learner.minimize(
                    self.loss, obs[index], action[index], target[index], noise
                )
                if step.skipped:
                    return {"epsilon": self.epsilon}
        return {"epsilon": self.epsilon}

    @torch.no_grad()
    def returns(self, batch: Transition) -> Tensor:
        """G_t = r_t + γ [(1-λ) max_a Q(s_{t+1}, a) + λ G_{t+1}], `(T, N)`.

        Of the best action next, whatever the policy will do: that is off-policy.
        """
        c = self.config
        next_q = self.network(batch.next_obs)["q"]
        cut = batch.done
        if c.watkins:
            # What is observed next, as the policy saw it; the last row's return is cut in any case.
            acted_on, next_action = batch.obs.roll(-1, 0), batch.action.roll(-1, 0)
            cut = targets.watkins_cut(batch.done, self.network(acted_on)["q"], next_action)
        return targets.lambda_returns(
            self.scaled(batch.reward), batch.discount(c.gamma), next_q.amax(-1), cut, c.td_lambda
        )

    def loss(
        self, obs: Tensor, action: Tensor, target: Tensor, noise: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        q = targets.action_value(self.network(obs, noise)["q"], action)
        prediction = q.detach()
        aux = {"q": prediction.mean(), "prediction": prediction, "target": target}
        return {"td": losses.squared(q, target).mean()}, aux
