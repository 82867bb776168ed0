"""Policies' distributions as functions of a network's output.

Losses call `log_prob` and `entropy` on tensors; acting calls `sample` and `mode` on arrays, with
a NumPy generator: for the few observations of a step that is several times faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.core.network import Head


@dataclass(frozen=True)
class Categorical:
    """Over the actions 0 … n-1, from logits `(..., n)`."""

    n: int

    @property
    def head(self) -> Head:
        return Head(self.n, gain=0.01)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for integer actions `(...,)`."""
        log_prob = torch.log_softmax(logits, -1)
        return log_prob.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """-Σ p log p in nats, `(...,)`; at most log n."""
        log_prob = torch.log_softmax(logits, -1)
        return -(log_prob.exp() * log_prob).sum(-1)

    def sample(self, logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(...,)` by the Gumbel-max trick: argmax(logits + Gumbel noise)."""
        return (logits + rng.gumbel(size=logits.shape)).argmax(-1)

    def mode(self, logits: np.ndarray) -> np.ndarray:
        """The most probable actions `(...,)`."""
        return logits.argmax(-1)


@dataclass(frozen=True)
class Gaussian:
    """Over vectors of `size` numbers, from means and log standard deviations `(..., 2 size)`.

    The standard deviation is a parameter of its own, not a function of the observation.
    """

    size: int
    initial_log_std: float = 0.0

    @property
    def head(self) -> Head:
        return Head(self.size, gain=0.01, log_std=self.initial_log_std)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """log p(action), `(...,)`, for actions `(..., size)`."""
        mean, log_std = output.chunk(2, -1)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, output: Tensor) -> Tensor:
        """½ log 2πe + log σ in nats, summed over the components, `(...,)`."""
        log_std = output.chunk(2, -1)[1]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def sample(self, output: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Actions `(..., size)`, not bounded."""
        mean, log_std = np.split(output, 2, axis=-1)
        return mean + np.exp(log_std) * rng.standard_normal(mean.shape, dtype=mean.dtype)

    def mode(self, output: np.ndarray) -> np.ndarray:
        """The means `(..., size)`."""
        return np.split(output, 2, axis=-1)[0]


Distribution = Categorical | Gaussian


def largest_entropy(space: spaces.Space[Any]) -> float:
    """The entropy of the policy that does everything equally often, in nats; nan for Box actions.

    A density has no largest entropy that tells how much at random it acts.
    """
    return math.log(space.n) if isinstance(space, spaces.Discrete) else math.nan


def policy_for(space: spaces.Space[Any], initial_log_std: float = 0.0) -> Distribution:
    """The distribution of a policy over the actions of `space`.

    Raises ValueError for a space that is neither Discrete nor Box.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.Box):
        return Gaussian(int(np.prod(space.shape)), initial_log_std)
    raise ValueError(f"action space {space} is not supported: use Discrete or Box")
