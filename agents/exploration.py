"""How an agent that values actions tries others: ε-greedy and Boltzmann, as pure functions."""

from __future__ import annotations

import numpy as np


def epsilon_greedy(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """The best action, or with probability ε any action, `(N,)` from Q `(N, A)`.

    Each of the N environments draws for itself.
    """
    greedy = q.argmax(-1)
    if epsilon <= 0.0:
        return greedy
    anything = rng.integers(q.shape[-1], size=greedy.shape)
    return np.where(rng.random(greedy.shape) < epsilon, anything, greedy)


def boltzmann(q: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """An action with probability proportional to exp(Q / temperature), `(N,)` from Q `(N, A)`."""
    return (q / temperature + rng.gumbel(size=q.shape)).argmax(-1)
