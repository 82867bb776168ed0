"""How an agent that values actions tries others: ε-greedy and Boltzmann, as pure functions.

Each draws actions, and beside it stands the policy that it draws from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def epsilon_greedy(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """The best action, or with probability ε any action, `(N,)` from Q `(N, A)`.

    Each of the N environments draws for itself.
    """
    greedy = q.argmax(-1)
    if epsilon <= 0.0:
        return greedy
    anything = rng.integers(q.shape[-1], size=greedy.shape)
    return np.where(rng.random(greedy.shape) < epsilon, anything, greedy)


def epsilon_greedy_probabilities(q: Tensor, epsilon: float) -> Tensor:
    """π(a|s) of `epsilon_greedy`, `(..., A)` from Q `(..., A)`: ε/A, and 1-ε more for the best.

    Of equally good actions the first is the best one, as for argmax.
    """
    actions = torch.arange(q.shape[-1], device=q.device)
    greedy = (q.argmax(-1, keepdim=True) == actions).to(q.dtype)
    return (1.0 - epsilon) * greedy + epsilon / len(actions)


def boltzmann(q: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """An action with probability proportional to exp(Q / temperature), `(N,)` from Q `(N, A)`."""
    return (q / temperature + rng.gumbel(size=q.shape)).argmax(-1)


def boltzmann_probabilities(q: Tensor, temperature: float) -> Tensor:
    """π(a|s) ∝ exp(Q / temperature), `(..., A)` from Q `(..., A)`: the policy of `boltzmann`."""
    return (q / temperature).softmax(-1)
