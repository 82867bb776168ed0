"""Environments for chainrule's agents: Gymnasium's, in one form, and probes with known values."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs import _identity, arcade, deep_sea, probe, wrappers
from envs.transition import Transition
from envs.vector import Episode, RestoreWarning, VectorEnv

__all__ = [
    "Episode",
    "RestoreWarning",
    "Transition",
    "VectorEnv",
    "make",
    "make_one",
    "missing_package",
    "spec",
]

_identity.check()
probe.register()
deep_sea.register()
wrappers.register()

EXTRA = ("Box2D", "moviepy", "pygame")
"""Packages that the extra `chainrule[envs]` brings."""
NATIVE_FROM = 6
"""From this many copies on, CartPole's own vector form was measured faster than a plain loop."""


def make(id: str, num_envs: int = 8, seed: int | None = None, **options: Any) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment in the fastest form that is installed.

    `id` is as for `spec`. `options` go to `gymnasium.make`. `seed` is kept for the first `reset`
    that is given none. MinAtar and Atari are set up as `envs.arcade` says; Atari runs in EnvPool
    where that is installed, faster, but without a state that a checkpoint could keep.
    Raises ValueError for an unknown id, with the ones that come close, for options that the
    environment does not take, and where a package that it needs is missing.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: use 1 or more")
    batched = None if options else _batched(spec(id), num_envs)
    return VectorEnv(batched or [make_one(id, **options) for _ in range(num_envs)], seed)


def _batched(found: EnvSpec, num_envs: int) -> gymnasium.vector.VectorEnv[Any, Any, Any] | None:
    """A form that steps all copies at once, if there is one that is worth it."""
    if arcade.known(found.id):  # Atari's own clips rewards and presses the fire button
        return arcade.pooled(found.id, num_envs)
    # JAX forms pay for a dispatch each step, and need what is mostly not there.
    native = (
        found.vector_entry_point is not None and "jax" not in str(found.vector_entry_point).lower()
    )
    if not native or num_envs < NATIVE_FROM:
        return None
    mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
    return gymnasium.make_vec(found, num_envs, vectorization_mode=mode)


def make_one(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """One of the environments that `make` steps, for a wrapper to be put around it.

    Raises ValueError as `make` does.
    """
    found = spec(id)
    try:
        if arcade.known(found.id):
            return arcade.make(found.id, **options)
        return gymnasium.make(found, disable_env_checker=True, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(missing_package(id, error)) from None
    except gymnasium.error.Error as error:
        raise ValueError(f"{id} cannot be made: {error}") from None
    except TypeError as error:
        raise ValueError(f"{id} cannot be made with {options}: {error}") from None


def spec(id: str) -> EnvSpec:
    """What Gymnasium knows of an id. For `module:Id` the module, which registers it, is imported.

    Raises ValueError for an unknown id, with the ones that come close, and for a missing module.
    """
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        arcade.known(name)  # registers them
        return gymnasium.spec(name)
    except ImportError as error:
        raise ValueError(missing_package(id, error)) from None
    except gymnasium.error.Error as error:
        close = difflib.get_close_matches(name, gymnasium.registry, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else str(error)
        raise ValueError(f"there is no environment {id!r}: {hint}") from None


def missing_package(what: str, error: Exception) -> str:
    """One line that says which package `what` needs, and what installs it where that is ours."""
    name = getattr(error.__cause__ or error, "name", None)
    if name in EXTRA:
        return f"{what} needs {name}: pip install 'chainrule[envs]'"
    return f"{what} needs a package that cannot be imported: {error}"
