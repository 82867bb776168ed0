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

    The agent's estimate of the return, or of what it does the first component: by how much the
    greedy choice's logit or value exceeds the mean of all choices, of a switch the logit towards
    what is greedily done with it, of Box actions the mean (where tanh bounds it, before it does).
    Raises BadInput where the agent has none.
    """
    if output == "value":
        with torch.no_grad():
            if agent.estimate(torch.zeros(1, agent.observations.size)) is None:
                raise BadInput(f"{agent.name} estimates no value here: use --explain action")
        return lambda x: _tensor(agent.estimate(x))
    if isinstance(agent.action_space, spaces.Dict | spaces.Tuple):
        raise BadInput(
            f"explained are actions of one kind, not {agent.action_space}: use --explain value"
        )
    if _chooser(agent) is None:
        raise BadInput(f"{agent.name} has no policy or action values to explain: use value")
    return lambda x: (_scores(agent, x) * _selected(agent, x)).sum(-1)


def described(agent: Agent, output: Output) -> str:
    """What is explained, in words; an action of several components by its first one."""
    space = agent.action_space
    count = math.prod(agent.actions.shape)
    if output == "value" or count == 1:
        return output
    part = {spaces.Box: "number", spaces.MultiBinary: "switch"}.get(type(space), "choice")
    return f"action's first {part} of {count}"


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def _network_with(agent: Agent, head: str, *names: str) -> Network | None:
    """The first of these networks of an agent that has such a head."""
    found = (getattr(agent, name, None) for name in names)
    return next((n for n in found if isinstance(n, Network) and head in n.heads), None)


def _chooser(agent: Agent) -> tuple[Network, str] | None:
    """The network that actions are chosen by, and its head."""
    for head, names in (("policy", ("network", "actor_network")), ("q", ("network",))):
        if (network := _network_with(agent, head, *names)) is not None:
            return network, head
    return None


def _valuer(agent: Agent) -> tuple[Network, str] | None:
    """The one network that the estimate of the return is made by, and its head."""
    if (network := _network_with(agent, "value", "critic", "network")) is not None:
        return network, "value"
    chooser = _chooser(agent)
    return chooser if chooser is not None and chooser[1] == "q" else None


def _scores(agent: Any, x: Tensor) -> Tensor:
    """What actions are chosen by, `(B, A)`: all numbers of the policy's head, or all values."""
    chooser = _chooser(agent)
    assert chooser is not None
    network, head = chooser
    return agent.q_values(x) if head == "q" and hasattr(agent, "q_values") else network(x)[head]


def _selected(agent: Agent, x: Tensor) -> Tensor:
    """Weights `(B, A)` of scores, 0 beyond the action's first component.

    Of choices the greedy one against the mean; of a switch ±1, towards what is done with it.
    """
    with torch.no_grad():
        scores = _scores(agent, x)
    space, weights = agent.action_space, torch.zeros_like(scores)
    if isinstance(space, spaces.Box):
        weights[:, 0] = 1.0
    elif isinstance(space, spaces.MultiBinary):
        weights[:, 0] = torch.where(scores[:, 0] > 0, 1.0, -1.0)
    else:
        choices = scores.shape[-1]
        if isinstance(space, spaces.MultiDiscrete):
            choices = int(space.nvec.flat[0])
        best = scores[:, :choices].argmax(-1)
        weights[:, :choices] = torch.nn.functional.one_hot(best, choices) - 1.0 / choices
    return weights


def attributions(
    agent: Agent, x: Tensor, output: Output, method: Method, baseline: Tensor
) -> Tensor:
    """What the output owes to each feature, `(B, size)`. Raises ValueError where it cannot be."""
    f = output_of(agent, output)
    if method == "gradient":
        return relevance.gradient_times_input(f, x, baseline)
    if method == "integrated":
        return relevance.integrated_gradients(f, x, baseline.expand_as(x))
    found = _valuer(agent) if output == "value" else _chooser(agent)
    if found is None:
        raise BadInput(
            f"{agent.name} estimates the return by several networks, and lrp passes relevance back "
            "through one: use integrated gradients"
        )
    network, head = found
    if output == "action":
        if isinstance(agent.action_space, spaces.Box):
            raise BadInput("lrp explains the value or discrete actions: use integrated gradients")
        select = _selected(agent, x)
    elif head == "value":
        select = torch.ones(len(x), 1)
    else:
        with torch.no_grad():
            scores = _scores(agent, x)
        select = torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(x)
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
        "explained": described(agent, output),
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
