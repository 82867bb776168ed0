"""Environments for chainrule's agents: Gymnasium's, in one form, and probes with known values."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from envs import _identity, probe
from envs.transition import Transition
from envs.vector import Episode, RestoreWarning, VectorEnv

__all__ = [
    "Episode",
    "RestoreWarning",
    "Transition",
    "VectorEnv",
    "make",
    "missing_package",
    "spec",
]

_identity.check()
probe.register()

EXTRA = ("Box2D", "moviepy", "pygame")
"""Packages that the extra `chainrule[envs]` brings."""
NATIVE_FROM = 6
"""From this many copies on, CartPole's own vector form was measured faster than a plain loop."""


def make(id: str, num_envs: int = 8, seed: int | None = None, **options: Any) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment in the fastest form that is installed.

    `id` is as for `spec`. `options` go to `gymnasium.make`. `seed` is kept for the first `reset`
    that is given none. Raises ValueError for an unknown id, with the ones that come close, for
    options that the environment does not take, and where a package that it needs is missing.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: use 1 or more")
    found = spec(id)
    # JAX forms pay for a dispatch each step, and need what is mostly not there.
    native = found.vector_entry_point is not None and "jax" not in str(found.vector_entry_point)
    try:
        if native and num_envs >= NATIVE_FROM and not options:
            mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
            return VectorEnv(gymnasium.make_vec(found, num_envs, vectorization_mode=mode), seed)
        copies = [
            gymnasium.make(found, disable_env_checker=True, **options) for _ in range(num_envs)
        ]
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(missing_package(id, error)) from None
    except gymnasium.error.Error as error:
        raise ValueError(f"{id} cannot be made: {error}") from None
    except TypeError as error:
        raise ValueError(f"{id} cannot be made with {options}: {error}") from None
    return VectorEnv(copies, seed)


def spec(id: str) -> EnvSpec:
    """What Gymnasium knows of an id. For `module:Id` the module, which registers it, is imported.

    Raises ValueError for an unknown id, with the ones that come close, and for a missing module.
    """
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
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
