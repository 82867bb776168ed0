"""How much is learned depends on the transitions, not on how many environments gave them."""

from dataclasses import replace
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from agents import train
from agents.memory import Replay, Stream
from envs.vector import VectorEnv
from tests.contract.support import batches, bits, small, task, updates

COUNTS = (1, 3, 8)


@pytest.mark.parametrize("num_envs", COUNTS)
def test_as_much_is_learned_from_a_step_of_one_as_of_many(cls, num_envs):
    tasks = envs.make(task(cls), num_envs=num_envs)
    # 0.3: a remainder is carried over; 29: learning starts in the midst of a step of many
    replay: dict[str, Any] = {"updates_per_step": 0.3, "learning_starts": 29}
    agent = small(cls, tasks, rollout_size=20, episodes_per_update=5, **replay)
    if isinstance(agent.memory, Replay):
        train(agent, tasks, 240)
        due = int((agent.steps - 29) * 0.3)
        assert max(learner.updates for learner in agent.learners.values()) == due
    elif isinstance(agent.memory, Stream):
        train(agent, tasks, 240)
        waiting = sum(int(row.valid.sum()) for row in agent.memory.rows)
        assert waiting <= num_envs
        assert updates(agent) == agent.steps - waiting
    else:
        check_rollouts(agent, tasks)


def check_rollouts(agent, tasks):
    """A batch is complete as soon as all environments together have given enough."""
    memory, found = agent.memory, list(islice(batches(agent, tasks), 6))
    for batch in found:
        if memory.episodes is None:
            size, enough = int(batch.valid.sum()), memory.transitions
        else:
            ended = (batch.done & batch.valid).sum(0)
            assert ended.min() == ended.max()
            size, enough = int(ended.sum()), memory.episodes
        assert enough <= size < enough + tasks.num_envs
    if memory.episodes is None:  # every transition is learned from, once, or still waits
        learned = sum(int(batch.valid.sum()) for batch in found)
        assert learned + sum(int(row.valid.sum()) for row in memory.rows) == agent.steps


def played(cls, garbage, steps=1000):
    """An agent trained where a reset costs a step, and what is seen in such a step replaced."""
    rng = np.random.default_rng(0)
    makers = [lambda: gymnasium.make(task(cls))] * 3
    mode = AutoresetMode.NEXT_STEP
    with VectorEnv(SyncVectorEnv(makers, autoreset_mode=mode)) as tasks:
        agent = small(cls, tasks, normalize_obs=True, normalize_reward=True)
        actor, obs = agent.actor(3), tasks.reset(1)
        agent.plan(steps)
        valid = 0
        while valid < steps:
            action, extras = actor.act(obs)
            transition, obs = tasks.step(action, extras)
            actor.reset(transition.over)
            valid += int(transition.valid.sum())
            if garbage:
                spoiled = ~transition.valid
                columns: dict[str, Any] = {
                    name: np.array(getattr(transition, name))
                    for name in ("obs", "action", "reward", "next_obs")
                }
                for name, column in columns.items():
                    noise = rng.normal(0, 1e3, column[spoiled].shape)
                    column[spoiled] = noise > 0 if name == "action" else noise
                transition = replace(transition, **columns)
            agent.observe(transition)
            for batch in agent.memory.batches():
                agent.update(batch)
    assert agent.steps == valid
    assert updates(agent) >= 6
    return agent


def test_a_step_spent_on_a_reset_is_no_experience(cls):
    assert bits(played(cls, garbage=True).state_dict()) == bits(played(cls, False).state_dict())
