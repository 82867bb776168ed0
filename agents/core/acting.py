"""How a policy acts: what it draws for a step, and what its noise carries through an episode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.core.distributions import Distribution, Gaussian, SquashedGaussian
from agents.core.network import Network

Carried = dict[str, np.ndarray]
"""What environments carry through their episodes: arrays `(N, ...)` by name."""
Normal = Gaussian | SquashedGaussian
"""The policies whose noise may be a function of the state."""


def begin(
    policy: Distribution | SquashedGaussian,
    network: Network,
    count: int,
    explore: bool,
    rng: np.random.Generator,
) -> Carried:
    """What each of `count` environments carries through its episode.

    A network that remembers has its `state`. A policy that explores with gSDE has its noise: `gsde`
    are the factors ε `(count, features, A)` by which features become noise, `age` the steps since
    they were drawn.
    """
    carried = network.begin(count)
    if explore and isinstance(policy, Normal) and policy.config.std == "gsde":
        carried |= {"gsde": _factors(policy, network, count, rng), "age": np.zeros(count, np.int64)}
    return carried


def _factors(policy: Normal, network: Network, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((count, network.features("policy"), policy.size), np.float32)


def draw(
    policy: Distribution | SquashedGaussian,
    network: Network,
    obs: Tensor,
    carried: Carried,
    explore: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Actions for observations `(N, size)`: random ones, or the most probable ones."""
    if explore and "gsde" in carried and isinstance(policy, Normal):
        age, steps = carried["age"], policy.config.gsde_steps
        if steps is not None and (old := age >= steps).any():
            carried["gsde"][old] = _factors(policy, network, int(old.sum()), rng)
            age[old] = 0
        age += 1
        factors = torch.from_numpy(carried["gsde"]).to(obs.device)
        moved = network.carry_on(obs, carried, "policy", factors)
        return policy.mode(moved.cpu().numpy())  # the means lie where the noise has put them
    output = network.carry_on(obs, carried, "policy").cpu().numpy()
    return policy.sample(output, rng) if explore else policy.mode(output)
