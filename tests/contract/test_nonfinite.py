"""One number that is not finite in a batch moves nothing of an agent, and the log says where."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from agents import Callback, train
from agents.runner.recorder import Recorder
from tests.contract.support import LIMIT, batches, bits, small, task, weights
from tests.runner.fakes import rows

GOOD = 4
"""Updates before the bad one, so that no moment, target or statistic is still as it began."""
EVERYTHING: dict[str, Any] = {
    "normalize_obs": True,
    "normalize_reward": True,
    "normalize_advantage": False,  # else one bad number would be in every minibatch,
    "batch_size": 2,  # where it is now in one of many
    "target_every": 1,
    "tau": 0.5,
    "optim": {"stats_every": 1},
}


def kept(agent):
    """What must not move; the skipped steps are counted, and random streams go on."""
    state = agent.state_dict() | {"memory": agent.memory.state_dict()}
    for learner in agent.learners:
        del state["parts"][learner]["skipped"]
    for random in ("rng", "predictions", "noise"):
        del state[random]
    state.pop("traces", None)  # they decay in a skipped step too: see tests/test_traces.py
    return bits(state)


def poisoned(batch, field, value):
    """A batch with one transition gone bad, one that counts."""
    column = getattr(batch, field).clone()
    column[tuple(batch.valid.nonzero()[0])] = value
    return replace(batch, **{field: column})


class StopAfter(Callback):
    """Ends the run after some calls of `agent.update`."""

    def __init__(self, left):
        self.left = left

    def updated(self, run, metrics):
        self.left -= 1
        if self.left == 0:
            run.stop("enough")


@pytest.mark.parametrize(
    ("field", "value"),
    [("reward", np.nan), ("reward", -np.inf), ("obs", np.nan), ("next_obs", np.nan)],
)
def test_a_bad_batch_moves_nothing_and_the_log_names_it(cls, field, value, tmp_path, monkeypatch):
    tasks = envs.make(task(cls), num_envs=4)
    agent = small(cls, tasks, **EVERYTHING)
    update, calls = agent.update, []

    def update_once_badly(batch):
        calls.append(batch)
        if len(calls) != GOOD + 1:
            return update(batch)
        before = kept(agent)
        metrics = update(poisoned(batch, field, value))
        assert kept(agent) == before
        return metrics

    monkeypatch.setattr(agent, "update", update_once_badly)
    train(agent, tasks, LIMIT, [Recorder(tmp_path, log_every=1), StopAfter(GOOD + 4)])

    skipped = [row for row in rows(tmp_path / "updates.csv") if row["skipped"] == "1"]
    assert len(skipped) == 1  # what would have followed in the same update was left out
    (row,) = skipped
    named = dict(part.rsplit(" ", 1) for part in row["nonfinite"].replace("'", "").split(", "))
    assert named["loss term"] in row
    if np.isnan(value):  # an infinite error may have a finite gradient, as Huber's has
        assert named["layer"] in agent.learners[row["learner"]].statistics.layers
    # and the agent goes on learning
    after = [r for r in rows(tmp_path / "updates.csv") if int(r["update"]) > int(row["update"])]
    assert len(after) >= 3
    assert all(np.isfinite(float(r["loss"])) for r in after)
    assert weights(agent).isfinite().all()


def test_normalizers_refuse_what_is_not_finite(cls):
    tasks = envs.make(task(cls), num_envs=4)
    agent = small(cls, tasks, **EVERYTHING)
    next(batches(agent, tasks))
    transition, _ = tasks.step(np.stack([tasks.action_space.sample() for _ in range(4)]))
    bad_obs, bad_reward = transition.obs.copy(), transition.reward.copy()
    bad_obs[2, 1], bad_reward[1] = np.nan, np.inf
    before = [bits(part.state_dict()) for part in (agent.obs_normalizer, agent.reward_scaler)]
    agent.observe(replace(transition, obs=bad_obs, reward=bad_reward))
    after = [bits(part.state_dict()) for part in (agent.obs_normalizer, agent.reward_scaler)]
    assert after == before
    agent.observe(transition)
    assert bits(agent.obs_normalizer.state_dict()) != before[0]
    assert bits(agent.reward_scaler.state_dict()) != before[1]


def test_there_is_no_action_for_an_observation_that_is_not_finite(cls):
    tasks = envs.make(task(cls), num_envs=1)
    agent = small(cls, tasks)
    with pytest.raises(ValueError, match="not finite"):
        agent.act(np.array([0.0, np.nan, 0.0, 0.0], np.float32))


def test_environments_are_never_given_what_is_not_finite(cls):
    """One that shows such an observation may recover; the agent must not spoil it."""
    tasks = envs.make(task(cls), num_envs=2)
    agent = small(cls, tasks, **EVERYTHING)
    next(batches(agent, tasks))
    bad = np.full((2, 4), np.nan, np.float32)
    bad[1] = np.inf
    action, _ = agent.actor(2).act(bad)
    assert all(a in tasks.action_space for a in action)
