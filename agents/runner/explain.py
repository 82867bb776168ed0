"""Explanation of a trained agent: which features its values or actions owe to, and what proves it.

Every explanation is put to the test: the feature that is named first is held at its mean while the
agent acts, beside each of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from agents.core.blocks import HiddenLayer
from agents.core.learner import Learner
from agents.core.network import Network
from agents.core.seeding import derived
from agents.runner.arguments import BadInput
from agents.runner.evaluate import evaluate
from agents.runner.registry import load
from agents.runner.results import Run, read_run
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
            f"{agent.name} has no one network with a head for it, through which lrp could pass "
            "relevance back: use integrated gradients"
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
    raw, x = _probe(agent, run, seed, probe)
    mean = x.mean(0, keepdim=True)
    with torch.enable_grad():
        found = attributions(agent, x, output, method, mean)
        share = found.abs().mean(0)
        share = share / share.sum().clamp_min(1e-30)
        extremes = _extremes(agent, output_of(agent, output), x)
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
        report["return"] = _masked(agent, run, seed, episodes, None, 0.0)
        for row in report["features"]:
            where = row["feature"], row["mean"]
            row["masked_return"] = _masked(agent, run, seed, episodes, *where)
    return report


def explain_unit(folder: Path, unit: str, seed: int = 0, probe: int = 512) -> dict[str, Any]:
    """The observations in the range of those seen at which a hidden unit is largest and least.

    Raises BadInput for a unit that there is none of, and where `explain` does.
    """
    run, agent = read_run(folder), load(folder)
    f = unit_of(agent, unit)
    raw, x = _probe(agent, run, seed, probe)
    with torch.enable_grad():
        extremes = _extremes(agent, f, x)
    return {
        "agent": agent.name,
        "step": agent.steps,
        "unit": unit,
        "seen": {"least": raw.min(0).tolist(), "largest": raw.max(0).tolist()},
        "extremes": extremes,
    }


def unit_of(agent: Agent, unit: str) -> relevance.Output:
    """What a hidden unit gives out, from LAYER:INDEX or, where learners have layers of the same
    name, LEARNER:LAYER:INDEX, named as in gradients.csv. Indices count from 0.

    Raises BadInput, with what there is, for another learner, layer or index, and for a layer that
    reads actions too.
    """
    *learner, layer, number = unit.rsplit(":", 2) if ":" in unit else (unit, "")
    found = {
        (name, own): (network, module, member)
        for name, each in agent.learners.items()
        for own, network, module, member in _hidden(each)
    }
    places = [at for at in found if at[1] == layer and learner in ([], [at[0]])]
    if not number.isdecimal() or not places:
        known = ", ".join(":".join(at) for at in found)
        raise BadInput(f"--unit is {unit}: use LAYER:INDEX, the hidden layers are {known}")
    if len(places) > 1:
        several = " or ".join(f"{name}:{layer}:{number}" for name, _ in places)
        raise BadInput(f"--unit is {unit}, and several learners have that layer: use {several}")
    network, module, member = found[places[0]]
    if network.action_size:
        raise BadInput(f"--unit is {unit}, which reads actions too: use one of another network")
    if int(number) >= module.outputs:
        raise BadInput(f"--unit is {unit}: use an index from 0 to {module.outputs - 1}")

    def f(x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        hook = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            network(x)
        finally:
            hook.remove()
        return kept[0].reshape(module.members, -1, module.outputs)[member, :, int(number)]

    return f


def _hidden(learner: Learner) -> Iterator[tuple[str, Network, HiddenLayer, int]]:
    """Each hidden layer by its name in gradients.csv: its network, module and place in a stack."""
    for key, network in learner.modules.items():
        prefix = f"{key}." if len(learner.modules) > 1 else ""
        if isinstance(network, Network):
            for module in network.modules():
                if isinstance(module, HiddenLayer):
                    for member, name in enumerate(module.layer_names):
                        yield prefix + name, network, module, member


def _extremes(agent: Agent, f: relevance.Output, x: Tensor) -> dict[str, Any]:
    """Where f is largest and least within the range of x `(B, size)`, in the units of the task."""
    low, high, value = x.amin(0), x.amax(0), f(x).detach()
    best = relevance.maximise(f, x[value.argmax()][None], low, high)
    worst = relevance.maximise(lambda x: -f(x), x[value.argmin()][None], low, high)
    return {
        name: {"obs": _raw(agent, at)[0].tolist(), "output": float(f(at).detach())}
        for name, at in (("largest", best), ("least", worst))
    }


def _raw(agent: Agent, x: Tensor) -> np.ndarray:
    """Observations as the task gives them, from ones as the network reads them `(B, size)`."""
    normalizer = agent.obs_normalizer
    if normalizer is None:
        return x.numpy() / agent.observations.scale
    return normalizer.undone(x.numpy())


def _probe(agent: Agent, run: Run, seed: int, count: int) -> tuple[np.ndarray, Tensor]:
    """Observations `(count, size)` of greedy play, and the same as the network reads them.

    Raises BadInput for ones that are not plain numbers.
    """
    features = agent.observations
    if features.image is not None or not features.numeric.all():
        raise BadInput(f"explained are observations of plain numbers, not {features.space}")
    if not isinstance(features.space, spaces.Box) or len(features.space.shape) != 1:
        raise BadInput(f"explained are observations of one axis, not {features.space}")
    raw = _seen(agent, run, seed, count)
    flat = features.flatten(raw)
    if agent.obs_normalizer is not None:
        flat = agent.obs_normalizer(flat)
    return raw, features.expand(torch.from_numpy(flat))


def _seen(agent: Agent, run: Run, seed: int, count: int) -> np.ndarray:
    """Observations `(count, size)` of greedy play."""
    with envs.make(run.env, num_envs=8, **run.env_options) as tasks:
        obs = tasks.reset(derived(seed, "probe"))
        actor, found = agent.actor(8, explore=False, seed=seed), []
        for _ in range(math.ceil(count / 8)):
            found.append(obs)
            action, extras = actor.act(obs)
            transition, obs = tasks.step(action, extras)
            actor.reset(transition.over)
    return np.concatenate(found)[:count]


def _masked(
    agent: Agent, run: Run, seed: int, episodes: int, feature: int | None, at: float
) -> float:
    """Mean return while the agent sees a feature at a fixed number."""

    def blind(obs: Any) -> Any:
        obs = obs.copy()
        if feature is not None:
            obs[feature] = at if obs.dtype.kind == "f" else round(at)  # no fraction is cut off
        return obs

    copies = []
    for _ in range(min(episodes, 20)):
        task = envs.make_one(run.env, **run.env_options)
        space = task.observation_space
        copies.append(gymnasium.wrappers.TransformObservation(task, blind, space))
    with VectorEnv(copies) as tasks:
        return evaluate(agent, tasks, episodes, derived(seed, "masked"), MOST_STEPS).mean
