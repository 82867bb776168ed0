"""Evaluation: how well an agent does when it acts greedily, on seeds of its own."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from agents.agent import Agent
from agents.core.spaces import alike
from envs.vector import VectorEnv

MAX_EPISODE_STEPS = 10_000
"""Where an episode is cut off by default: some tasks never end under a greedy policy."""


@dataclass(frozen=True)
class Evaluation:
    """What the episodes of an evaluation gave."""

    returns: np.ndarray
    """Undiscounted sum of rewards of each episode, `(episodes,)`."""
    lengths: np.ndarray
    """Steps of each episode, `(episodes,)`."""
    seconds: float = 0.0
    """Wall time it took."""
    discounted: np.ndarray | None = None
    """Discounted return of each episode in the rewards that the agent learns from, `(episodes,)`;
    one that was cut off goes on with what the agent estimates there. nan without a critic."""
    estimates: np.ndarray | None = None
    """What the agent estimated of that at each episode's first observation, `(episodes,)`."""

    @property
    def episodes(self) -> int:
        """How many episodes were played."""
        return len(self.returns)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the returns over the episodes."""
        return float(self.returns.std())

    @property
    def min(self) -> float:
        """The lowest return."""
        return float(self.returns.min())

    @property
    def max(self) -> float:
        """The highest return."""
        return float(self.returns.max())

    @property
    def discounted_return(self) -> float:
        """Mean discounted return; nan without a critic."""
        return math.nan if self.discounted is None else float(self.discounted.mean())

    @property
    def value_estimate(self) -> float:
        """Mean estimate of it; nan without a critic."""
        return math.nan if self.estimates is None else float(self.estimates.mean())

    def __str__(self) -> str:
        return (
            f"evaluation: mean_return={self.mean:.2f} std={self.std:.2f} episodes={self.episodes}"
        )


def check_episodes(episodes: int, max_episode_steps: int) -> None:
    """Raise ValueError for what cannot be played, TypeError for what is no whole number."""
    for name, value in (("episodes", episodes), ("max_episode_steps", max_episode_steps)):
        if not isinstance(value, int | np.integer):
            raise TypeError(f"{name} is {value!r}: use a whole number")
    if episodes < 1 or max_episode_steps < 1:
        raise ValueError(
            f"episodes is {episodes} and max_episode_steps {max_episode_steps}: use 1 or more"
        )


def evaluate(
    agent: Agent,
    envs: VectorEnv,
    episodes: int = 20,
    seed: int = 0,
    max_episode_steps: int = MAX_EPISODE_STEPS,
) -> Evaluation:
    """Play `episodes` with `agent` acting greedily; nothing of the agent changes.

    They are played in rounds: each environment plays one episode from its reset and waits for the
    others, so that short episodes are not counted more often than long ones. Episode k begins from
    seed `seed + k`, however many environments there are (in those that seed their copies one by
    one, as Gymnasium does). An episode that reaches `max_episode_steps` counts as it stands.
    """
    check_fit(agent, envs)
    check_episodes(episodes, max_episode_steps)
    began = time.perf_counter()
    rounds = [
        _play(agent, envs, min(envs.num_envs, episodes - first), seed + first, max_episode_steps)
        for first in range(0, episodes, envs.num_envs)
    ]
    returns, lengths, *values = (np.concatenate(parts) for parts in zip(*rounds, strict=True))
    return Evaluation(returns, lengths, time.perf_counter() - began, *values)


def check_form(envs: VectorEnv) -> None:
    """Raise TypeError for environments that are not in the one form that is stepped here."""
    if not isinstance(envs, VectorEnv):
        raise TypeError(
            f"the environments are a {type(envs).__name__}: wrap them, VectorEnv(env), or use "
            "envs.make(id)"
        )


def check_fit(agent: Agent, envs: VectorEnv) -> None:
    """Raise TypeError for environments as `check_form` does, and ValueError for ones whose actions,
    or the form of whose observations, are not the agent's.
    """
    check_form(envs)
    ours = agent.observation_space, agent.action_space
    theirs = envs.observation_space, envs.action_space
    if not (alike(ours[0], theirs[0]) and ours[1] == theirs[1]):
        raise ValueError(
            f"the agent maps {ours[0]} to {ours[1]}, the environment {theirs[0]} to {theirs[1]}"
        )


def _play(
    agent: Agent, envs: VectorEnv, count: int, seed: int, max_episode_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One episode in each of the first `count` environments.

    Their returns, lengths, discounted returns and the agent's estimates of these.
    """
    obs = envs.reset(seed)
    actor = agent.actor(envs.num_envs, explore=False, seed=seed)
    returns, lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, int)
    discounted, weight = np.zeros(envs.num_envs), np.ones(envs.num_envs)
    nothing = np.full(envs.num_envs, math.nan)
    first = agent.expected_return(obs)
    estimates = nothing if first is None else first
    playing = np.arange(envs.num_envs) < count
    for _ in range(max_episode_steps):
        action, extras = actor.act(obs)
        transition, obs = envs.step(action, extras)
        actor.reset(transition.over)
        returns[playing] += transition.reward[playing]
        lengths += playing
        if first is not None:
            cut = playing & ~transition.terminated
            cut &= transition.truncated | (lengths == max_episode_steps)
            discounted[playing] += (weight * agent.learned(transition.reward))[playing]
            weight *= agent.config.gamma
            if cut.any():
                rest = agent.expected_return(transition.next_obs)
                discounted[cut] += (weight * (nothing if rest is None else rest))[cut]
        playing &= ~transition.done
        if not playing.any():
            break
    if first is None:
        discounted = nothing
    return returns[:count], lengths[:count], discounted[:count], estimates[:count]
