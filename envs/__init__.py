"""Environments for chainrule's agents: Gymnasium's, in one form, and probes with known values."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium

from envs import _identity, probe
from envs.transition import Transition
from envs.vector import Episode, RestoreWarning, VectorEnv

__all__ = ["Episode", "RestoreWarning", "Transition", "VectorEnv", "make"]

_identity.check()
probe.register()

NATIVE_FROM = 6
"""From this many copies on, CartPole's own vector form was measured faster than a plain loop."""


def make(id: str, num_envs: int = 8, seed: int | None = None, **options: Any) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment in the fastest form that is installed.

    `options` go to `gymnasium.make`. `seed` is kept for the first `reset` that is given none.
    Raises ValueError for an unknown id, with the ones that come close, for options that the
    environment does not take, and where a package that it needs is not installed.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: use 1 or more")
    try:
        spec = gymnasium.spec(id)
        # JAX forms pay for a dispatch each step, and need what is mostly not there.
        native = spec.vector_entry_point is not None and "jax" not in str(spec.vector_entry_point)
        if native and num_envs >= NATIVE_FROM and not options:
            vectorized = gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point")
            return VectorEnv(vectorized, seed)
        copies = [gymnasium.make(id, disable_env_checker=True, **options) for _ in range(num_envs)]
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs a package that is not installed: {error}") from None
    except (gymnasium.error.Error, ImportError) as error:
        close = difflib.get_close_matches(id, gymnasium.registry, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"there is no environment {id!r}: {error}{hint}") from None
    except TypeError as error:
        raise ValueError(f"{id} cannot be made with {options}: {error}") from None
    return VectorEnv(copies, seed)
