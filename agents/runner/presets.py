"""Presets: settings that were tuned for an agent on an environment, kept beside the code as TOML.

    ["CartPole-v1"]
    steps = 50_000
    num_envs = 8
    agent.batch_size = 256
    agent.optim.lr = 1e-3

A file `<agent>.toml` has a table for each environment id. What it leaves out is the default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.agent import Agent, AgentConfig
from agents.core.files import config_from_json, config_to_json

FOLDER = Path(__file__).parents[1] / "presets"


@dataclass(frozen=True)
class Preset:
    """Tuned settings; None where the file says nothing."""

    agent: AgentConfig
    steps: int | None = None
    num_envs: int | None = None


def preset_for(agent: type[Agent], env: str, folder: Path = FOLDER) -> Preset | None:
    """The preset of an agent for an environment id; None where there is none.

    Raises ValueError that names the file when it has an unknown field or an impossible value.
    """
    path = _file(agent, folder)
    table = _tables(path).get(env.rpartition(":")[2])  # a module does not make it another task
    if table is None:
        return None
    try:
        for name in table:
            if name not in ("steps", "num_envs", "agent"):
                close = difflib.get_close_matches(name, ["steps", "num_envs", "agent"], 1, 0.0)[0]
                raise ValueError(f"no field {name!r}, did you mean {close}?")
        config = merged(config_to_json(agent.Config()), table.get("agent", {}))
        return Preset(**{**table, "agent": config_from_json(agent.Config, config)})
    except ValueError as error:
        raise ValueError(f"{path}, {env}: {error}") from None


def preset_envs(agent: type[Agent], folder: Path = FOLDER) -> list[str]:
    """The environment ids that an agent has presets for."""
    return list(_tables(_file(agent, folder)))


def _file(agent: type[Agent], folder: Path) -> Path:
    return folder / f"{agent.name}.toml"


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, table by table."""
    result = dict(base)
    for name, value in over.items():
        below = result.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[name] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
