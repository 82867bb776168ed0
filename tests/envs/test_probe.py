"""What the probes say of themselves is true."""

from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import probe
from envs.probe import Probe

GAMMAS = (0.0, 0.5, 0.9, 0.99)

probe.register()
seen_whole = pytest.mark.parametrize(
    "kind", probe.DISCRETE + probe.CONTINUOUS, ids=lambda kind: kind.__name__
)
each_probe = pytest.mark.parametrize("kind", probe.PROBES, ids=lambda kind: kind.__name__)


def stream(kind: type[Probe], episodes: int = 300) -> list[list[tuple[Any, ...]]]:
    """Episodes of (obs, action index, reward, next_obs, terminated) under random actions."""
    env, rng = kind(), np.random.default_rng(0)
    actions = np.linspace(-1, 1, 9)[:, None] if kind in probe.CONTINUOUS else (0, 1)
    env.reset(seed=0)
    played = []
    for _ in range(episodes):
        obs, done, steps = env.reset()[0], False, []
        while not done:
            index = int(rng.integers(len(actions)))
            next_obs, reward, terminated, truncated, _ = env.step(actions[index])
            steps.append((float(obs[0]), index, reward, float(next_obs[0]), terminated))
            obs, done = next_obs, terminated or truncated
        played.append(steps)
    return played


@seen_whole
@pytest.mark.parametrize("gamma", GAMMAS)
def test_values_are_those_that_value_iteration_finds(kind: type[Probe], gamma: float) -> None:
    """The model is learned from steps alone: the same step always has the same outcome."""
    model: dict[tuple[float, int], tuple[float, float, bool]] = {}
    for obs, action, *outcome in (step for steps in stream(kind) for step in steps):
        assert model.setdefault((obs, action), tuple(outcome)) == tuple(outcome)
    states = kind.observations[:, 0].tolist()
    q_values = np.zeros((len(states), 1 + max(action for _, action in model)))
    assert {obs for obs, _ in model} == set(states)
    assert len(model) == q_values.size
    for _ in range(3000):
        values = q_values.max(axis=-1)
        for (obs, action), (reward, next_obs, terminated) in model.items():
            following = 0.0 if terminated else values[states.index(next_obs)]
            q_values[states.index(obs), action] = reward + gamma * following
    np.testing.assert_allclose(kind.values(gamma), q_values.max(axis=-1), atol=1e-9)
    if kind in probe.DISCRETE:
        np.testing.assert_allclose(kind.q_values(gamma), q_values, atol=1e-9)


def fixed_point(steps: list[tuple[float, float, float, float]]) -> float:
    """V(1) where V(obs) is the mean of reward + discount V(next_obs) over `steps`."""
    matrix, target = np.zeros((2, 2)), np.zeros(2)
    for obs, reward, next_obs, discount in steps:
        row, column = int(obs < 0), int(next_obs < 0)
        matrix[row, row] += 1
        matrix[row, column] -= discount
        target[row] += reward
    return float(np.linalg.solve(matrix, target)[0])


def test_every_mistake_at_a_truncation_gives_the_value_that_the_probe_foretells() -> None:
    gamma, half = 0.9, 0.45
    right, terminates, bootstraps_reset, learns_reset = [], [], [], []
    for steps, following in pairwise(stream(probe.Truncation)):
        first = following[0][0]
        *most, last = [
            (obs, reward, next_obs, gamma) for obs, _, reward, next_obs, terminated in steps
        ]
        obs, reward, successor, _ = last
        right += [*most, last]
        terminates += [*most, (obs, reward, successor, 0.0)]
        bootstraps_reset += [*most, (obs, reward, first, gamma)]
        learns_reset += [*most, last, (successor, 0.0, first, gamma)]
    value = probe.Truncation.values(gamma)[0]
    assert fixed_point(right) == pytest.approx(value) == pytest.approx(1 / (1 + gamma))
    wrong = {
        (1 - half) / (1 - half * gamma): terminates,
        (1 - half) / (1 - gamma**2): learns_reset,
        (1 - half) / ((1 - gamma) * (1 + half)): bootstraps_reset,
    }
    for expected, steps in wrong.items():
        assert fixed_point(steps) == pytest.approx(expected)
        assert abs(expected - value) > 0.3
        assert f"{expected:.2f}" in (probe.Truncation.__doc__ or "")


@pytest.mark.parametrize("gamma", GAMMAS)
def test_what_is_to_be_recalled_decides_the_reward_and_is_seen_once(gamma: float) -> None:
    values = probe.Recall.values(gamma)
    for steps in stream(probe.Recall):
        seen = [obs for obs, *_ in steps]
        cue, *blank = seen
        assert (abs(cue), blank) == (1.0, [0.0, 0.0, 0.0])
        *waits, (_, action, reward, _, terminated) = steps
        assert all(r == 0 and not over for _, _, r, _, over in waits)
        assert terminated
        assert reward == (cue if action == 1 else -cue)
        first = int(cue < 0)
        for t in range(4):  # state 2 t + first, from where the best there is lies so far ahead
            assert values[2 * t + first] == pytest.approx(gamma ** (3 - t))
            row = probe.Recall.q_values(gamma)[2 * t + first]
            assert row[action] == pytest.approx(reward if t == 3 else gamma ** (3 - t))


@each_probe
def test_gymnasium_knows_it_and_finds_no_fault(kind: type[Probe]) -> None:
    env = gymnasium.make(kind.id)
    assert type(env.unwrapped) is kind
    check_env(env.unwrapped)
    assert kind.observations.shape == (len(kind.values(0.5)), 1)
    assert all(obs in env.observation_space for obs in kind.observations)


def test_registering_twice_changes_nothing() -> None:
    before = {kind.id: gymnasium.spec(kind.id) for kind in probe.PROBES}
    probe.register()
    assert all(gymnasium.spec(id) is spec for id, spec in before.items())


@each_probe
def test_the_same_seed_gives_the_same_episodes(kind: type[Probe]) -> None:
    assert stream(kind, 20) == stream(kind, 20)


def test_the_best_box_action_earns_the_value() -> None:
    env = probe.BoxAction()
    for seed in range(4):
        obs, _ = env.reset(seed=seed)
        state = probe.BoxAction.observations.tolist().index(obs.tolist())
        reward = env.step(probe.BoxAction.best_actions[state])[1]
        assert reward == probe.BoxAction.values(0.9)[state]


@pytest.mark.parametrize("kind", probe.DISCRETE, ids=lambda kind: kind.__name__)
def test_a_probe_made_continuous_has_values_that_are_linear_in_the_action(kind) -> None:
    """At -1 and 1 those of its two actions, step by step; halfway half of each."""
    env, plain = (gymnasium.make(kind.id, continuous=c).unwrapped for c in (True, False))
    check_env(gymnasium.make(kind.id, continuous=True).unwrapped)
    for seed in range(20):
        for action in (0, 1):
            env.reset(seed=seed)
            plain.reset(seed=seed)
            there = plain.step(action)
            here = env.step(np.array([2.0 * action - 1.0], np.float32))
            assert (here[0] == there[0]).all()
            assert here[1:] == there[1:]
    halfway = np.zeros(1, np.float32)
    found = []
    for seed in range(400):
        obs, _ = env.reset(seed=seed)
        after, reward, terminated, _, _ = env.step(halfway)
        found.append((float(obs[0]), reward, 0.0 if terminated else float(after[0])))
    for state, seen in enumerate(kind.observations[:, 0]):
        mine = [row for row in found if row[0] == seen]
        if state in kind.starts:
            assert np.mean([row[1] for row in mine]) == pytest.approx(np.mean(kind.rewards[state]))
            ends = [
                0.0 if s == probe.END else kind.observations[s, 0] for s in kind.successors[state]
            ]
            assert np.mean([row[2] for row in mine]) == pytest.approx(np.mean(ends), abs=0.2)


def test_a_continuous_probe_has_no_table_of_action_values() -> None:
    with pytest.raises(NotImplementedError, match="BoxAction has no table"):
        probe.BoxAction.q_values(0.9)
