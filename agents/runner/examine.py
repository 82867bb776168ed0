"""Examination of a checkpoint: features, noise, curvature, loss terms, plasticity and churn.

The run goes on from its checkpoint for a few updates, whose losses and inputs are kept; after each
the agent is put back, so that everything is seen at the weights of the checkpoint. The learning
rate is the full one, whatever its schedule has made of it by then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

import envs
from agents.agent import Agent
from agents.core import examination
from agents.core.learner import Evaluated, Learner, Step
from agents.core.manifest import read_manifest
from agents.core.network import Network
from agents.core.seeding import derived
from agents.runner.arguments import BadInput
from agents.runner.checkpoint import Checkpoint
from agents.runner.registry import load
from agents.runner.results import read_run
from agents.runner.train import Run

PROBE = 512
"""Observations that features, plasticity and churn are looked at on."""
GRADIENTS = 16
"""Batches whose gradients the noise scale is taken from."""
MOST_STEPS = 100_000
"""Steps of the environments after which no update fell due and none will."""
MOST_SKIPPED = 32
"""Updates of a learner in a row that were not finite, after which none will be."""

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
    if agent.name != run_config.agent:
        raise BadInput(f"{folder} holds a checkpoint of {agent.name}, not of {run_config.agent}")
    fresh = type(agent)(agent.observation_space, agent.action_space, agent.config, seed=agent.seed)
    options, backend = run_config.env_options, run_config.config.get("backend")
    if backend is None:
        raise BadInput(f"{folder / 'config.json'}: no 'backend' in it")
    tasks = envs.make(run_config.env, run_config.num_envs, backend=backend, **options)
    run = Run(fresh, tasks, 2**62, seed=run_config.seed)
    tasks.reset(derived(run.seed, "environment"))
    Checkpoint(folder).restore(run)
    for learner in fresh.learners.values():  # a schedule may have ended at 0
        learner.config = replace(
            learner.config, schedule="constant", final_lr=0.0, schedule_steps=None, warmup_steps=0
        )
    return run


class Update(NamedTuple):
    """What an update was made of."""

    evaluated: Evaluated
    size: int
    """Transitions in it."""


def collect(run: Run, gradients: int, probe: int) -> tuple[dict[str, list[Update]], list[Any]]:
    """What the next updates of each learner are made of, at the weights as they stand.

    So many `gradients` of each, on transitions that none of the others saw: of what an agent goes
    over several times, the first pass. Also the observations met on the way, `(N, ...)` each. The
    agent is left as it was, its memory apart.

    Raises BadInput where a learner's updates are not finite.
    """
    agent = run.agent
    made: dict[str, list[Update]] = {name: [] for name in agent.learners}
    fresh: dict[str, int] = {}
    """Transitions of the memory's batch that are still to come in each learner's first pass."""
    skipped = dict.fromkeys(made, 0)
    seen: list[Any] = []

    def keep(learner: Learner, step: Step) -> None:
        found, name = step.evaluated, learner.name
        skipped[name] = skipped[name] + 1 if step.skipped else 0
        if skipped[name] == MOST_SKIPPED:
            raise BadInput(
                f"{MOST_SKIPPED} updates of {name} in a row were not finite ({step.nonfinite}): "
                "there is nothing to examine here; --replay shows where the run's first ones broke"
            )
        if found is None or step.skipped or len(made[name]) >= gradients:
            return
        # What passes through a network beside a transition, such as its successor, is no other.
        size = min(_rows(found.inputs), whole)
        if size <= fresh[name]:
            fresh[name] -= size
            made[name].append(Update(found, size))

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
                whole = int(batch.valid.sum())
                fresh = dict.fromkeys(made, whole)
                agent.learn(batch)
                # Counts go on, or what an agent does in every other update would never come, and so
                # does randomness, or all would have the same noise and no batch a sample of it.
                counts = {k: x.updates for k, x in agent.learners.items()}
                rng, noise = agent.rng.bit_generator.state, agent.noise.get_state()
                going_on = {"steps": agent.steps, "rng": rng, "noise": noise}
                agent.load_state_dict(before | going_on)
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
            found |= _of_losses(learner, made[name], generator)
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
    """What a network reads: the observations, and with each any action or fraction of quantiles."""
    generator = torch.Generator().manual_seed(derived(seed, "actions"))
    inputs, heads = {"obs": obs}, dict[str, Any](network.heads.items())
    if size := network.action_size:
        inputs["action"] = torch.rand(len(obs), size, generator=generator) * 2.0 - 1.0
    if any(layer.head.cosines for layer in heads.values()):
        inputs["tau"] = torch.rand(len(obs), 1, generator=generator)
    return inputs


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


def _of_losses(learner: Learner, made: list[Update], generator: torch.Generator) -> Report:
    """What the losses of some updates say, all at the same weights."""
    gradients = []
    for one, _ in made:
        learner.gradient(one.loss, *one.inputs)
        gradients.append(learner.flat.gradient.clone())
    size = float(np.mean([one.size for one in made]))
    found: Report = {"batch_size": size}
    if len(made) > 1:
        noise = examination.noise_scale(torch.stack(gradients), size)
        found["noise"] = {**noise._asdict(), "scale": _finite(noise.scale)}
    first = made[0].evaluated
    found["curvature"] = _curvature(learner, first, generator)
    terms = examination.term_gradients(learner, first.loss, *first.inputs)
    where = examination.trunk_weights(learner)
    found["terms"] = {
        "trunk": "shared" if where is not None else "separate",
        **examination.attribution(terms, where)._asdict(),
    }
    return found


def _curvature(learner: Learner, one: Evaluated, generator: torch.Generator) -> Report:
    """That of a loss whose gradient is followed; of others it says nothing about the steps."""
    if one.direction is not None:
        return {"why_not": "its steps follow a direction of their own, not this loss's gradient"}
    try:
        found = examination.sharpness(learner, one.loss, *one.inputs, generator=generator)
    except RuntimeError as error:  # a kernel without a second derivative
        return {"why_not": " ".join(str(error).split())}
    if not math.isfinite(found.times_lr):
        return {"why_not": "second derivatives of this loss are not finite here"}
    return {**found._asdict(), "lr": learner.lr}


def _rows(inputs: tuple[Any, ...]) -> int:
    """Rows of the first batch among a loss's inputs."""
    return next(len(x) for x in inputs if isinstance(x, Tensor) and x.ndim)


def _plasticity(agent: Agent, learner: Learner, obs: Tensor, seed: int) -> Report:
    """How well each network learns random functions, beside one as it was before any training."""
    other = type(agent)(
        agent.observation_space, agent.action_space, agent.config, derived(seed, "fresh")
    )
    found: Report = {}
    for key, network in learner.modules.items():
        if isinstance(network, Network):
            pair: Any = {"trained": network, "fresh": other.learners[learner.name].modules[key]}
            inputs = _inputs(network, obs, seed)
            errors = {
                which: examination.fit_random(module, inputs, torch.Generator().manual_seed(seed))
                for which, module in pair.items()
            }
            found[key] = errors | {"ratio": _finite(errors["trained"] / errors["fresh"])}
    return found


def _churn(agent: Agent, made: dict[str, list[Update]], seen: list[Any]) -> Report:
    """What one update of every learner changes of the greedy actions (Schaul et al. 2022).

    The share that are others, and how far numbers move, of which nearly every one is another:
    as a share of their range, where they have one.
    """

    def greedy() -> np.ndarray:
        flat = np.concatenate([agent.actions.flatten(agent.act(obs)) for obs in seen])
        return flat.reshape(len(flat), -1)

    before, then = agent.state_dict(), greedy()
    for name, learner in agent.learners.items():
        for one, _ in made[name][:1]:
            terms, aux = learner.gradient(one.loss, *one.inputs)
            learner.step_along(
                learner.flat.gradient if one.direction is None else one.direction, terms, aux
            )
    now = greedy()
    agent.load_state_dict(before)
    numbers = np.concatenate(
        [np.full(math.prod(p.shape or ()), isinstance(p, spaces.Box)) for p in agent.actions.parts]
    )
    width = np.where(agent.actions.bounded, 2.0, 1.0)
    found: Report = {}
    if not numbers.all():
        found["changed"] = float((then != now)[:, ~numbers].any(1).mean())
    if numbers.any():
        found["moved"] = float((np.abs(then - now) / width)[:, numbers].mean())
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
