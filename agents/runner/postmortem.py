"""Post-mortems: what a step that was not finite was made of, so that it can be made again.

    postmortems/<learner>-<step>-<n>/
        report.json          where it went wrong and with which numbers, and what the inputs were
        agent.safetensors    what agent.save writes
        state.safetensors    the agent's whole state (optimisers, targets, random streams), the
                             batch that it was given, and the inputs of the loss

The guard left weights and moments as they were, and a loss is a function of parameters and inputs
alone: the step is reproduced by evaluating the same loss on the same inputs, or, of an agent with a
direction of its own, by following the same direction. Arrays are safetensors, the rest is JSON;
nothing that lies here is executed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.core.files import (
    CheckpointError,
    join_state,
    read_arrays,
    split_state,
    write_arrays,
    write_bytes,
)
from agents.core.learner import Learner, Step
from agents.core.recurrent import History
from envs.transition import Transition

FOLDER = "postmortems"
HISTORY = "history"


def write(folder: Path, agent: Agent, learner: Learner, step: Step, batch: Transition) -> Path:
    """Put down a step that was skipped; the folder of the post-mortem."""
    path = folder / FOLDER / f"{learner.name}-{agent.steps}-{learner.skipped}"
    path.mkdir(parents=True, exist_ok=True)
    evaluated = step.evaluated
    loss, inputs = (None, None) if evaluated is None else (evaluated.loss, evaluated.inputs)
    own = getattr(loss, "__self__", None) is agent
    packed = _packed(inputs) if own else None
    columns = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    columns = {name: value for name, value in columns.items() if value is not None}
    state = {
        "agent": agent.state_dict(),
        "batch": columns,
        "inputs": packed,
        "direction": None if evaluated is None else evaluated.direction,
    }
    report = {
        "agent": agent.name,
        "learner": learner.name,
        "loss_function": loss.__name__ if own else None,  # type: ignore[union-attr]
        "step": agent.steps,
        "update": step.update,
        "lr": step.lr,
        **_numbers(step),
        "inputs": _described(packed or (), ""),
        "batch": _described(columns, ""),
    }
    agent.save(path / "agent.safetensors")
    arrays, tree = split_state(state)
    write_arrays(path / "state.safetensors", arrays, {"state": tree})
    write_bytes(path / "report.json", json.dumps(report, indent=2).encode())  # last: it is whole
    return path


def folders(run: Path) -> list[Path]:
    """The post-mortems in a run's folder, in the order in which they were written."""
    found = [path for path in (run / FOLDER).glob("*") if (path / "report.json").is_file()]
    return sorted(found, key=lambda path: (path / "report.json").stat().st_mtime_ns)


def read_report(folder: Path) -> dict[str, Any]:
    """What a post-mortem says. Raises CheckpointError when it is not one."""
    path = folder / "report.json"
    try:
        report = json.loads(path.read_bytes())
        return {**report, "learner": report["learner"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{folder} holds no post-mortem: {path} cannot be read") from None


def replay(folder: Path, agent: Agent) -> dict[str, Any]:
    """Make the step of a post-mortem again with `agent`, loaded from its agent.safetensors.

    Returns what the report calls loss, terms, scalars, grad_norm, skipped and nonfinite. Raises
    CheckpointError when a piece is missing or damaged, or the loss is not known by its name.
    """
    report = read_report(folder)
    arrays, header = read_arrays(folder / "state.safetensors")
    state = join_state(arrays, header["state"])
    try:
        agent.load_state_dict(state["agent"])
        learner = agent.learners[report["learner"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"{folder} does not fit this agent: {why}") from None
    name = report["loss_function"]
    # What a file names must not be any method that there is.
    loss = getattr(agent, name, None) if isinstance(name, str) and "loss" in name else None
    if not inspect.ismethod(loss):
        raise CheckpointError(
            f"{folder}: its loss is no method of the agent, it cannot be replayed"
        )
    inputs = _tensors(state["inputs"], agent.device)
    terms, aux = learner.gradient(loss, *inputs)
    if state["direction"] is None:
        known = {*report["scalars"], *learner.buffers}
        aux = {n: value for n, value in aux.items() if n in known}  # no more than was handed on
        return _numbers(learner.step_along(learner.flat.gradient, terms, aux))
    # A direction of the agent's own: its terms are as it gave them, and so are its scalars.
    given = {
        kind: {n: torch.tensor(_number(v), device=agent.device) for n, v in report[kind].items()}
        for kind in ("terms", "scalars")
    }
    direction = torch.as_tensor(state["direction"]).to(agent.device)
    return _numbers(learner.step_along(direction, given["terms"], given["scalars"]))


def differences(report: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """What of a replay is not as the report says, in words; empty if all of it is."""
    return [
        f"{name} was {report[name]}, now {value}"
        for name, value in again.items()
        if report[name] != value
    ]


def _numbers(step: Step) -> dict[str, Any]:
    """What a replay must reproduce. Numbers that JSON does not know are words."""
    return {
        "nonfinite": step.nonfinite,
        "skipped": step.skipped,
        "loss": _word(step.loss),
        "grad_norm": _word(step.grad_norm),
        "terms": {name: _word(value) for name, value in step.terms.items()},
        "scalars": {name: _word(value) for name, value in step.scalars.items()},
    }


def _word(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _number(value: float | str) -> float:
    return float(value)


def _described(value: Any, path: str) -> dict[str, Any]:
    """Of each array below: its shape, the range of its finite numbers, and where the others are."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    elif isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        found: dict[str, Any] = {"shape": list(array.shape)}
        if array.size and array.dtype.kind in "iuf":
            finite = np.isfinite(array)
            if finite.any():
                found["range"] = [float(array[finite].min()), float(array[finite].max())]
            if bad := int(array.size - finite.sum()):
                first = np.argwhere(~finite)[0].tolist()
                found |= {"not_finite": bad, "first": first}
        return {path: found}
    else:
        return {}
    parts = [_described(item, f"{path}.{key}".lstrip(".")) for key, item in items]
    return {name: found for part in parts for name, found in part.items()}


def _packed(inputs: Any) -> list[Any]:
    """The inputs of a loss as what a state can hold: a History by its parts."""
    return [{HISTORY: x._asdict()} if isinstance(x, History) else x for x in inputs]


def _tensors(value: Any, device: torch.device) -> Any:
    """Arrays of a state as tensors again, and a History of them."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()).to(device)
    if isinstance(value, list):
        return [_tensors(item, device) for item in value]
    if isinstance(value, dict):
        parts = {name: _tensors(item, device) for name, item in value.items()}
        return History(**parts[HISTORY]) if set(parts) == {HISTORY} else parts
    return value
