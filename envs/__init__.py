"""Environments for chainrule's agents: Gymnasium's, in one form, and probes with known values."""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec

from envs import _identity, arcade, bit_flip, classic, deep_sea, pooled, probe, wrappers
from envs.transition import Transition
from envs.vector import Episode, RestoreWarning, VectorEnv

__all__ = [
    "Backend",
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
bit_flip.register()
wrappers.register()

EXTRA = {"Box2D": "envs", "moviepy": "envs", "pygame": "envs", "mujoco": "mujoco"}
"""Packages, and the extra `chainrule[...]` that brings them."""
Backend = Literal["auto", "loop", "vector", "envpool"]
"""How copies of an environment are stepped; `make` explains."""
NATIVE_FROM = 6
"""From this many copies on, CartPole's own vector form was measured faster than a plain loop."""


def make(
    id: str,
    num_envs: int = 8,
    seed: int | None = None,
    backend: Backend = "auto",
    **options: Any,
) -> VectorEnv:
    """`num_envs` copies of a Gymnasium environment, by default in the fastest form there is.

    `id` is as for `spec`. `options` go to `gymnasium.make`. `seed` is kept for the first `reset`
    that is given none. MinAtar and Atari are set up as `envs.arcade` says; Atari runs in EnvPool
    where that is installed, faster, but without a state that a checkpoint could keep.

    `backend` chooses the form: "loop" steps Gymnasium's copies one by one; "vector" steps them as
    arrays, by `envs.classic` or a vector form of the task's own, however few they are; "envpool"
    in EnvPool's threads, which begin other episodes from the same seed and cannot be saved; "auto"
    takes arrays from where these were measured faster, else the loop.

    Raises ValueError for an unknown id, with the ones that come close, for options that the
    environment does not take, where a package that it needs is missing, and for a backend that
    does not have the task; TypeError for a `num_envs` that is no whole number.
    """
    if not isinstance(num_envs, int | np.integer):
        raise TypeError(f"num_envs is {num_envs!r}: use a whole number")
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}: use 1 or more")
    form = _vector_form(spec(id), num_envs, backend, options)
    made = VectorEnv(form or [make_one(id, **options) for _ in range(num_envs)], seed)
    made.id = id  # with its module, which the environments do not know
    made.options, made.backend = _as_json(options), backend
    return made


def _as_json(options: dict[str, Any]) -> dict[str, Any] | None:
    """Options as a file can keep them, but for the way to render; None where it cannot."""
    kept = {name: value for name, value in options.items() if name != "render_mode"}
    try:
        return kept if json.loads(json.dumps(kept)) == kept else None
    except (TypeError, ValueError):
        return None


def _vector_form(
    found: EnvSpec, num_envs: int, backend: Backend, options: dict[str, Any]
) -> gymnasium.vector.VectorEnv[Any, Any, Any] | None:
    """A form that steps all copies at once; None for the loop."""
    auto = backend == "auto"
    if backend == "loop" or (auto and options):
        return None
    if options:
        raise ValueError(f"backend {backend!r} has no use for {options}: use loop, or auto")
    if backend == "envpool":
        return pooled.make(found, num_envs)
    if backend not in ("auto", "vector"):
        raise ValueError(f"backend is {backend!r}: use {', '.join(get_args(Backend))}")
    if arcade.known(found.id):  # Atari's own clips rewards and presses the fire button
        if auto:
            return arcade.pooled(found.id, num_envs)
    else:
        # JAX forms pay for a dispatch each step, and need what is mostly not there.
        entry = str(found.vector_entry_point or "jax").lower()
        native, task = "jax" not in entry, classic.TASKS.get(found.id)
        # Where Gymnasium has a form, it stays: another would begin other episodes from a seed.
        if task is not None and (not auto or (not native and num_envs >= task.worth_from)):
            return task(num_envs)
        if native and (not auto or num_envs >= NATIVE_FROM):
            mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
            return gymnasium.make_vec(found, num_envs, vectorization_mode=mode)
    if auto:
        return None
    raise ValueError(f"backend is 'vector', and {found.id} has no such form: use auto or loop")


def make_one(id: str, **options: Any) -> gymnasium.Env[Any, Any]:
    """One of the environments that `make` steps, for a wrapper to be put around it.

    Raises ValueError as `make` does.
    """
    found = spec(id)
    try:
        if arcade.known(found.id):
            return arcade.make(found.id, **options)
        if "mujoco" in str(found.entry_point):
            _quieten_mujoco()
        return gymnasium.make(found, disable_env_checker=True, **options)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise ValueError(missing_package(id, error)) from None
    except gymnasium.error.Error as error:
        raise ValueError(f"{id} cannot be made: {error}") from None
    except Exception as error:  # whatever an environment says of options it cannot have
        if not options and not isinstance(error, ValueError | OSError):
            raise  # a fault of its own, that no caller takes for bad input
        given = f" with {options}" if options else ""
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{id} cannot be made{given}: {why}") from error


def _quieten_mujoco() -> None:
    """Leave out what MuJoCo 4 says of Gymnasium's HalfCheetah, twice for each copy of it.

    Left to itself it writes its warnings to a file in the working directory too.
    """
    mujoco = importlib.import_module("mujoco")

    def warn(text: str) -> None:
        if "'settotalmass' is deprecated" not in text:
            print(f"MuJoCo: {text}", file=sys.stderr)

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(warn)


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
        if name and not close:
            close = [known for known in gymnasium.registry if name.lower() in known.lower()][:3]
        hint = f"did you mean {' or '.join(close)}?" if close else str(error)
        raise ValueError(f"there is no environment {id!r}: {hint}") from None


def missing_package(what: str, error: Exception) -> str:
    """One line that says which package `what` needs, and what installs it where that is ours."""
    name = getattr(error.__cause__ or error, "name", None)
    if name in EXTRA:
        return f"{what} needs {name}: pip install 'chainrule[{EXTRA[name]}]'"
    return f"{what} needs a package that cannot be imported: {error}"
