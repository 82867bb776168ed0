"""Environments for chainrule's agents: Gymnasium's, in one form, and probes with known values."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium

from envs import _identity, arcade, deep_sea, probe
from envs.transition import Transition
from envs.vector import Episode, RestoreWarning, VectorEnv

__all__ = ["Episode", "RestoreWarning", "Transition", "VectorEnv", "make", "make_one"]

_identity.check()
probe.register()
deep_sea.register()

NATIVE_FROM = 6
"""From this many copies on, CartPole's own vector form was measured faster than a plain loop."""


def make(id: str, num_envs: int = 8, seed: int | None = None, **options: Any) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment in the fastest form that is installed.

    `options` go to `gymnasium.make`. `seed` is kept for the first `reset` that is given none.
    MinAtar and Atari are set up as `envs.arcade` says; Atari runs in EnvPool where that is
    installed, faster, but without a state that a checkpoint could keep.
    Raises ValueError for an unknown id, with the ones that come close, for options that the
    environment does not take, and where a package that it needs is not installed.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: use 1 or more")
    batched = None if options else _batched(id, num_envs)
    return VectorEnv(batched or [make_one(id, **options) for _ in range(num_envs)], seed)


def _batched(id: str, num_envs: int) -> gymnasium.vector.VectorEnv[Any, Any, Any] | None:
    """A form that steps all copies at once, if there is one that is worth it."""
    if arcade.known(id):  # Atari's own clips rewards and presses the fire button
        return arcade.pooled(id, num_envs)
    spec = gymnasium.registry.get(id)
    # JAX forms pay for a dispatch each step, and need what is mostly not there.
    native = spec and spec.vector_entry_point and "jax" not in str(spec.vector_entry_point)
    if not native or num_envs < NATIVE_FROM:
        return None
    return gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point")


def make_one(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """One of the environments that `make` steps, for a wrapper to be put around it.

    Raises ValueError as `make` does.
    """
    try:
        if arcade.known(id):
            return arcade.make(id, **options)
        return gymnasium.make(id, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"{id} needs a package that is not installed: {error}") from None
    except (gymnasium.error.Error, ImportError) as error:
        close = difflib.get_close_matches(id, gymnasium.registry, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"there is no environment {id!r}: {error}{hint}") from None
    except TypeError as error:
        raise ValueError(f"{id} cannot be made with {options}: {error}") from None
