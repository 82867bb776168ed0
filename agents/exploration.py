"""How an agent tries other actions than what it takes for the best, as pure functions, and the
temperature of one that is paid for it.

Each of the N environments draws for itself. Beside ε-greedy and Boltzmann exploration stands the
policy that they draw from. Actions whose value is `FORBIDDEN` are never drawn.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from agents.core.network import forbidden

PULL, INTERVAL = 0.15, 0.01
"""θ of Ornstein-Uhlenbeck noise, and the time that passes in a step."""
LONGEST = 10_000
"""Steps that ε-z-greedy repeats an action for at the most: without a limit their mean is infinite
for an exponent up to 2."""


def epsilon_greedy(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """The best action, or with probability ε any action, `(N,)` from Q `(N, A)`."""
    greedy = q.argmax(-1)
    if epsilon <= 0.0:
        return greedy
    anything = _anything(q, rng)
    return np.where(rng.random(greedy.shape) < epsilon, anything, greedy)


def _anything(q: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any action that is allowed, each as likely, `(N,)` from Q `(N, A)`."""
    closed = forbidden(q)
    if not closed.any():
        return rng.integers(q.shape[-1], size=q.shape[:-1])
    return np.where(closed, -1.0, rng.random(q.shape)).argmax(-1)


def uniform(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Actions `(count, size)` of numbers in [-1, 1], each as likely."""
    return rng.uniform(-1.0, 1.0, (count, size)).astype(np.float32)


def epsilon_greedy_probabilities(q: Tensor, epsilon: float) -> Tensor:
    """π(a|s) of `epsilon_greedy`, `(..., A)` from Q `(..., A)`: ε/A, and 1-ε more for the best.

    Of equally good actions the first is the best one, as for argmax. A are those that are allowed.
    """
    actions = torch.arange(q.shape[-1], device=q.device)
    greedy = (q.argmax(-1, keepdim=True) == actions).to(q.dtype)
    allowed = (~forbidden(q)).to(q.dtype)
    return (1.0 - epsilon) * greedy + epsilon * allowed / allowed.sum(-1, keepdim=True)


def boltzmann(q: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """An action with probability proportional to exp(Q / temperature), `(N,)` from Q `(N, A)`."""
    return (q / temperature + rng.gumbel(size=q.shape)).argmax(-1)


def boltzmann_probabilities(q: Tensor, temperature: float) -> Tensor:
    """π(a|s) ∝ exp(Q / temperature), `(..., A)` from Q `(..., A)`: the policy of `boltzmann`."""
    return (q / temperature).softmax(-1)


def ez_greedy(
    q: np.ndarray,
    epsilon: float,
    exponent: float,
    last: np.ndarray,
    left: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Temporally extended ε-greedy, ε-z-greedy (Dabney, Ostrovski & Barreto 2021, algorithm 1).

    Where `left` `(N,)` is above 0 the `last` action `(N,)` is taken again, unless it has come to be
    forbidden. Elsewhere, with probability ε, any action begins to be taken for n steps, P(n) ∝
    n^-exponent, and is else the best of Q `(N, A)`. Returns the actions, and for how many steps
    more each is to be taken. Zeta draws beyond `LONGEST` are cut to it. As the exponent grows n is
    1, and this is ε-greedy.
    """
    left = np.where(forbidden(np.take_along_axis(q, last[:, None], -1)[:, 0]), 0, left)
    begins = (left == 0) & (rng.random(left.shape) < epsilon)
    anything = _anything(q, rng)
    duration = np.minimum(rng.zipf(exponent, left.shape), LONGEST)
    action = np.where(left > 0, last, np.where(begins, anything, q.argmax(-1)))
    return action, np.where(begins, duration, np.maximum(left, 1)) - 1


def ornstein_uhlenbeck(last: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """The next noise of a process drawn back to 0, from the last, `(N, A)`.

    x' = x - θ x dt + σ √dt ε (Uhlenbeck & Ornstein 1930; Lillicrap et al. 2016). It pushes the same
    way for about 1 / (θ dt) steps, and its deviation comes to be about σ / √(2θ).
    """
    noise = rng.standard_normal(last.shape, dtype=np.float32)
    return last - PULL * INTERVAL * last + sigma * INTERVAL**0.5 * noise


class Temperature(nn.Module):
    """α, what a nat of entropy is worth, by its logarithm: so it stays positive."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(value).log())

    def forward(self) -> Tensor:
        return self.log.exp()
