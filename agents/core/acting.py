"""How a policy acts: what it draws for a step, and what its noise carries through an episode."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from agents.core.distributions import Distribution, Gaussian
from agents.core.network import Network

Carried = dict[str, np.ndarray]


def begin(policy: Distribution, network: Network, count: int, rng: np.random.Generator) -> Carried:
    """What each of `count` environments carries through its episode: with gSDE its noise.

    `gsde` are the factors ε `(count, features, A)` by which features become noise, `age` the steps
    since they were drawn. Nothing for other policies.
    """
    if not isinstance(policy, Gaussian) or policy.config.std != "gsde":
        return {}
    shape = (count, network.features("policy"), policy.size)
    return {"gsde": rng.standard_normal(shape, np.float32), "age": np.zeros(count, np.int64)}


def draw(
    policy: Distribution,
    network: Network,
    obs: Tensor,
    carried: Carried,
    explore: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Actions for observations `(N, size)`: random ones, or the most probable ones."""
    if explore and "gsde" in carried and isinstance(policy, Gaussian):
        age, steps = carried["age"], policy.config.gsde_steps
        if steps is not None and (old := age >= steps).any():
            carried["gsde"][old] = begin(policy, network, int(old.sum()), rng)["gsde"]
            age[old] = 0
        age += 1
        output = network(obs, only="policy", gsde=obs.new_tensor(carried["gsde"]))["policy"]
        return policy.mode(output.cpu().numpy())  # the means lie where the noise has put them
    output = network(obs, only="policy")["policy"].cpu().numpy()
    return policy.sample(output, rng) if explore else policy.mode(output)
