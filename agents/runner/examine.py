"""Examination of a checkpoint: features, noise, curvature, loss terms, plasticity and churn.

The run goes on from its checkpoint for a few updates, whose losses and inputs are kept; after each
the agent is put back, so that everything is seen at the weights of the checkpoint. The learning
rate is the full one, whatever its schedule has made of it by then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import envs
from agents.agent import Agent
from agents.core import examination
from agents.core.learner import Evaluated, Learner, Step
from agents.core.network import Network
from agents.core.seeding import derived
from agents.runner.arguments import BadInput
from agents.runner.checkpoint import Checkpoint, read_manifest
from agents.runner.registry import AGENTS, load
from agents.runner.results import read_run
from agents.runner.train import Run

PROBE = 512
"""Observations that features, plasticity and churn are looked at on."""
GRADIENTS = 16
"""Batches whose gradients the noise scale is taken from."""
MOST_STEPS = 100_000
"""Steps of the environments after which no update fell due and none will."""

Report = dict[str, Any]


def resumed(folder: Path) -> Run:
    """The run in a folder as its last checkpoint left it, with fresh environments beside it.

    Raises BadInput where there is none, and CheckpointError where it is damaged.
    """
    run_config = read_run(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise BadInput(f"{folder} has no checkpoint to examine")
    agent = load(folder)
    if type(agent) is not AGENTS[run_config.agent]:
        raise BadInput(f"{folder} holds a checkpoint of {agent.name}, not of {run_config.agent}")
    fresh = type(agent)(agent.observation_space, agent.action_space, agent.config, seed=agent.seed)
    tasks = envs.make(run_config.env, num_envs=run_config.num_envs)
    run = Run(fresh, tasks, 2**62, seed=agent.seed)
    tasks.reset(derived(run.seed, "environment"))
    Checkpoint(folder).restore(run)
    for learner in fresh.learners.values():  # a schedule may have ended at 0
        learner.config = replace(
            learner.config, schedule="constant", final_lr=0.0, schedule_steps=None, warmup_steps=0
        )
    return run


def collect(run: Run, gradients: int, probe: int) -> tuple[dict[str, list[Evaluated]], list[Any]]:
    """What the next updates of each learner are made of, at the weights as they stand.

    Also the observations met on the way, `(N, ...)` each. The agent is left as it was, its memory
    apart.
    """
    agent = run.agent
    made: dict[str, list[Evaluated]] = {name: [] for name in agent.learners}
    seen: list[Any] = []

    def keep(learner: Learner, step: Step) -> None:
        if step.evaluated is not None and not step.skipped:
            made[learner.name].append(step.evaluated)

    def enough() -> bool:
        return all(len(found) >= gradients for found in made.values())

    before, began = agent.state_dict(), agent.steps
    for learner in agent.learners.values():
        learner.observer = keep
    obs = run.envs.obs
    while (not enough() or len(seen) * run.envs.num_envs < probe) and (
        agent.steps - began < MOST_STEPS
    ):
        seen.append(obs)
        action, extras = run.actor.act(obs)
        transition, obs = run.envs.step(action, extras)
        run.actor.reset(transition.over)
        agent.observe(transition)
        for batch in agent.memory.batches():
            if not enough():
                agent.learn(batch)
                # Counts go on, or what an agent does in every other update would never come.
                steps, counts = agent.steps, {k: x.updates for k, x in agent.learners.items()}
                agent.load_state_dict(before)
                agent.steps = steps
                for name, learner in agent.learners.items():
                    learner.updates = counts[name]
    for learner in agent.learners.values():
        learner.observer = None
    agent.load_state_dict(before)
    return made, seen[-math.ceil(probe / run.envs.num_envs) :]


def examine(folder: Path, seed: int = 0, gradients: int = GRADIENTS, probe: int = PROBE) -> Report:
    """All that is known of a run's last checkpoint, as JSON values by learner."""
    run = resumed(folder)
    agent = run.agent
    made, seen = collect(run, gradients, probe)
    run.envs.close()
    flat = np.concatenate([agent.observations.flatten(obs) for obs in seen])[-probe:]
    if agent.obs_normalizer is not None:
        flat = agent.obs_normalizer(flat)
    obs = torch.from_numpy(flat)
    generator = torch.Generator().manual_seed(seed)
    report: Report = {"agent": agent.name, "step": agent.steps, "seed": seed, "learners": {}}
    for name, learner in agent.learners.items():
        found: Report = {"batches": len(made[name])}
        found["features"] = _features(learner, obs, seed)
        if made[name]:
            found |= _of_losses(agent, learner, made[name], generator)
        found["plasticity"] = _plasticity(agent, learner, obs, seed)
        report["learners"][name] = found
    report["churn"] = _churn(agent, made, seen)
    return report


def _features(learner: Learner, obs: Tensor, seed: int) -> Report:
    """Ranks of what the last hidden layer gives out, for each member of a stack."""
    found: Report = {}
    for network in _networks(learner):
        for name, member in _last_features(network, _inputs(network, obs, seed)).items():
            found[name] = {
                "width": member.shape[-1],
                "effective_rank": examination.effective_rank(member),
                "stable_rank": examination.stable_rank(member),
                "norm": float(torch.linalg.vector_norm(member, dim=-1).mean()),
            }
    return found


def _inputs(network: Network, obs: Tensor, seed: int) -> dict[str, Tensor]:
    """What a network reads: the observations, and any action with each where it judges actions."""
    if not network.action_size:
        return {"obs": obs}
    generator = torch.Generator().manual_seed(derived(seed, "actions"))
    action = torch.rand(len(obs), network.action_size, generator=generator) * 2.0 - 1.0
    return {"obs": obs, "action": action}


def _last_features(network: Network, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the last hidden layer gives out, `(B, H)` by the names of its members."""
    trunk = network.trunk
    layers = list(trunk) if isinstance(trunk, nn.ModuleList) else [trunk]
    if not layers:
        return {}  # linear in its features
    layer = layers[-1]
    names: tuple[str, ...] = getattr(layer, "layer_names", ("trunk",))
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        with torch.no_grad():
            network(**inputs)
    finally:
        hook.remove()
    members = kept[0].reshape(len(names), -1, kept[0].shape[-1])
    return dict(zip(names, members, strict=True))


def _networks(learner: Learner) -> list[Network]:
    return [m for m in learner.modules.values() if isinstance(m, Network)]


def _of_losses(
    agent: Agent, learner: Learner, made: list[Evaluated], generator: torch.Generator
) -> Report:
    """What the losses of some updates say, all at the same weights."""
    rows, sizes = [], []
    for one in made:
        learner.gradient(one.loss, *one.inputs)
        rows.append(learner.flat.gradient.clone())
        sizes.append(_batch_size(one.inputs))
    gradients = torch.stack(rows)
    found: Report = {"batch_size": float(np.mean(sizes)) if all(sizes) else None}
    if len(made) > 1 and all(sizes):
        noise = examination.noise_scale(gradients, float(np.mean(sizes)))
        found["noise"] = {**noise._asdict(), "scale": _finite(noise.scale)}
    first = made[0]
    try:
        curvature = examination.sharpness(
            learner, first.loss, *first.inputs, generator=generator, iterations=50
        )
        found["curvature"] = {**curvature._asdict(), "lr": learner.lr}
    except RuntimeError as error:  # a kernel without a second derivative
        found["curvature"] = {"why_not": " ".join(str(error).split())}
    terms = examination.term_gradients(learner, first.loss, *first.inputs)
    where = examination.trunk_weights(learner)
    found["terms"] = {
        "trunk": "shared" if where is not None else "separate",
        **examination.attribution(terms, where)._asdict(),
    }
    found["terms"]["cosines"] = {n: _finite(v) for n, v in found["terms"]["cosines"].items()}
    return found


def _batch_size(inputs: tuple[Any, ...]) -> int:
    tensors = [x for x in inputs if isinstance(x, Tensor) and x.ndim]
    return len(tensors[0]) if tensors else 0


def _plasticity(agent: Agent, learner: Learner, obs: Tensor, seed: int) -> Report:
    """How well each network learns random functions, beside one as it was before any training."""
    other = type(agent)(
        agent.observation_space, agent.action_space, agent.config, derived(seed, "fresh")
    )
    found: Report = {}
    for key, network in learner.modules.items():
        if isinstance(network, Network):
            pair = {"trained": network, "fresh": other.learners[learner.name].modules[key]}
            inputs = _inputs(network, obs, seed)
            errors = {
                which: examination.fit_random(module, inputs, torch.Generator().manual_seed(seed))
                for which, module in pair.items()
            }
            found[key] = errors | {"ratio": _finite(errors["trained"] / errors["fresh"])}
    return found


def _churn(agent: Agent, made: dict[str, list[Evaluated]], seen: list[Any]) -> Report:
    """What one update of every learner changes of the greedy actions (Schaul et al. 2022)."""
    before = agent.state_dict()
    then = np.concatenate([agent.act(obs) for obs in seen])
    for name, learner in agent.learners.items():
        for one in made[name][:1]:
            terms, aux = learner.gradient(one.loss, *one.inputs)
            learner.step_along(
                learner.flat.gradient if one.direction is None else one.direction, terms, aux
            )
    now = np.concatenate([agent.act(obs) for obs in seen])
    agent.load_state_dict(before)
    changed = (then != now).reshape(len(then), -1).any(1)
    found: Report = {"changed": float(changed.mean())}
    space = agent.action_space
    if isinstance(space, spaces.Box):
        span = np.where(np.isfinite(space.high - space.low), space.high - space.low, 1.0)
        found["moved"] = float((np.abs(then - now) / span).mean())
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
