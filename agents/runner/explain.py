"""Explanation of a trained agent: which features its values or actions owe to, and what proves it.

Every explanation is put to the test: the feature that is named first is held at its mean while the
agent acts, beside each of the others.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

import envs
from agents.agent import Agent
from agents.core import relevance
from agents.core.network import Network
from agents.core.seeding import derived
from agents.runner.arguments import BadInput
from agents.runner.evaluate import evaluate
from agents.runner.registry import load
from agents.runner.results import read_run
from envs.vector import VectorEnv

Method = Literal["gradient", "integrated", "lrp"]
Output = Literal["value", "action"]
LARGEST = 64
"""Observations of more features are not masked one by one."""
MOST_STEPS = 1000
"""Where an episode of a masked agent is cut off."""


def output_of(agent: Agent, output: Output) -> relevance.Output:
    """What is explained, as a function of observations as the network reads them `(B, size)`.

    The agent's estimate of the return, or by how much its greedy action's logit, value or first
    component exceeds the mean. Raises BadInput where the agent has none.
    """
    network = getattr(agent, "network", None)
    if output == "value":
        with torch.no_grad():
            if agent.estimate(torch.zeros(1, agent.observations.size)) is None:
                raise BadInput(f"{agent.name} estimates no value here: use --explain action")
        return lambda x: _tensor(agent.estimate(x))
    if not isinstance(network, Network) or not {"policy", "q"} & set(network.heads):
        raise BadInput(f"{agent.name} has no policy or action values to explain: use value")
    return lambda x: (_scores(agent, x) * _selected(agent, x)).sum(-1)


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _scores(agent: Any, x: Tensor) -> Tensor:
    """What actions are chosen by, `(B, A)`; means of Box actions."""
    if "policy" in agent.network.heads:
        output = agent.network(x)["policy"]
        box = isinstance(agent.action_space, spaces.Box)
        return output.chunk(2, -1)[0] if box else output
    return agent.q_values(x) if hasattr(agent, "q_values") else agent.network(x)["q"]


def _selected(agent: Agent, x: Tensor) -> Tensor:
    """Weights `(B, A)` of scores: the greedy action against the mean; of Box, the first one."""
    with torch.no_grad():
        scores = _scores(agent, x)
    if isinstance(agent.action_space, spaces.Box):
        return torch.eye(scores.shape[-1])[0].expand_as(scores)
    best = torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])
    return best - 1.0 / scores.shape[-1]


def attributions(
    agent: Agent, x: Tensor, output: Output, method: Method, baseline: Tensor
) -> Tensor:
    """What the output owes to each feature, `(B, size)`. Raises ValueError where it cannot be."""
    f = output_of(agent, output)
    if method == "gradient":
        return relevance.gradient_times_input(f, x, baseline)
    if method == "integrated":
        return relevance.integrated_gradients(f, x, baseline.expand_as(x))
    network: Any = getattr(agent, "network", None)
    heads = list(network.heads) if isinstance(network, Network) else []
    if output == "value" and "value" in heads:
        return relevance.layerwise_relevance(network, x, "value", torch.ones(len(x), 1))
    head = "policy" if "policy" in heads else "q"
    if head not in heads:
        raise BadInput(f"{agent.name} has no network that relevance is passed back through")
    if output == "value":
        with torch.no_grad():
            scores = _scores(agent, x)
        select = torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(x)
    else:
        select = _selected(agent, x)
    if isinstance(agent.action_space, spaces.Box) and head == "policy":
        raise BadInput("lrp explains the value or discrete actions: use integrated")
    return relevance.layerwise_relevance(network, x, head, select)


def explain(
    folder: Path,
    output: Output,
    method: Method,
    seed: int = 0,
    probe: int = 512,
    episodes: int = 20,
) -> dict[str, Any]:
    """Which features matter to a run's agent, how much its return falls without them, its extremes.

    Raises BadInput for an agent whose features are not plain numbers.
    """
    run, agent = read_run(folder), load(folder)
    features = agent.observations
    if features.image is not None or not features.numeric.all():
        raise BadInput(f"explained are observations of plain numbers, not {features.space}")
    if not isinstance(features.space, spaces.Box) or len(features.space.shape) != 1:
        raise BadInput(f"explained are observations of one axis, not {features.space}")
    raw = _seen(agent, run.env, seed, probe)
    flat = features.flatten(raw)
    x = torch.from_numpy(flat if agent.obs_normalizer is None else agent.obs_normalizer(flat))
    mean = x.mean(0, keepdim=True)
    with torch.enable_grad():
        found = attributions(agent, x, output, method, mean)
        share = found.abs().mean(0)
        share = share / share.sum().clamp_min(1e-30)
        f = output_of(agent, output)
        low, high = x.amin(0), x.amax(0)
        value = f(x).detach()
        best = relevance.maximise(f, x[value.argmax()][None], low, high)
        worst = relevance.maximise(lambda x: -f(x), x[value.argmin()][None], low, high)
        extremes = {
            name: {"obs": at[0].tolist(), "output": float(f(at).detach())}
            for name, at in (("largest", best), ("least", worst))
        }
    order = share.argsort(descending=True).tolist()
    report: dict[str, Any] = {
        "agent": agent.name,
        "step": agent.steps,
        "output": output,
        "method": method,
        "features": [
            {"feature": i, "share": float(share[i]), "mean": float(raw[:, i].mean())} for i in order
        ],
        "extremes": extremes,
    }
    if features.size <= LARGEST:
        report["return"] = _masked(agent, run.env, seed, episodes, None, 0.0)
        for row in report["features"]:
            row["masked_return"] = _masked(
                agent, run.env, seed, episodes, row["feature"], row["mean"]
            )
    return report


def _seen(agent: Agent, env: str, seed: int, count: int) -> np.ndarray:
    """Observations `(count, size)` of greedy play."""
    with envs.make(env, num_envs=8) as tasks:
        obs = tasks.reset(derived(seed, "probe"))
        actor, found = agent.actor(8, explore=False, seed=seed), []
        for _ in range(math.ceil(count / 8)):
            found.append(obs)
            action, extras = actor.act(obs)
            transition, obs = tasks.step(action, extras)
            actor.reset(transition.over)
    return np.concatenate(found)[:count]


def _masked(
    agent: Agent, env: str, seed: int, episodes: int, feature: int | None, at: float
) -> float:
    """Mean return while the agent sees a feature at a fixed number."""

    def blind(obs: Any) -> Any:
        obs = obs.copy()
        if feature is not None:
            obs[feature] = at
        return obs

    copies = []
    for _ in range(min(episodes, 20)):
        task = envs.make_one(env)
        space = task.observation_space
        copies.append(gymnasium.wrappers.TransformObservation(task, blind, space))
    with VectorEnv(copies) as tasks:
        return evaluate(agent, tasks, episodes, derived(seed, "masked"), MOST_STEPS).mean
