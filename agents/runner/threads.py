"""How many threads PyTorch is to have: measured, for that depends on the work in an update."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from statistics import median
from typing import Any

import torch

from agents.agent import Agent
from agents.runner.train import introduce
from envs.transition import Transition
from envs.vector import VectorEnv

ROUNDS = 3
"""Every number of threads is tried so many times in turn, for the machine may be busy meanwhile."""
SECONDS = 0.3
"""Updates are timed for as long in each try, and at least one of them."""
PATIENCE = 30.0
"""Seconds after which nothing further is tried."""
HOPELESS = 3.0
"""A number of threads that took so many times as long as another is not tried again."""
GAIN = 1.05
"""Further threads are to be that much faster: they are taken from whatever else runs here."""


def choose_threads(make: Callable[[], tuple[VectorEnv, Agent]], most: int | None = None) -> int:
    """The number of threads with which an agent's updates were measured to be fastest.

    `make` makes environments and an agent of the kind to be trained, which are used up: it acts
    until its first batch falls due, and learns from that one again and again. Tried are 1, 2, 4, …
    and `most`, by default the processor's cores. Sets torch's number of threads.
    """
    most = most or len(os.sched_getaffinity(0))
    counts = sorted({*(2**k for k in range(most.bit_length()) if 2**k <= most), most})
    if counts == [1]:
        return 1
    torch.set_num_threads(1)
    tasks, agent = make()
    with tasks:
        batch = _first_batch(tasks, agent)
    times: dict[int, list[float]] = {}
    end = time.perf_counter() + PATIENCE
    for count in counts * ROUNDS:
        if times and time.perf_counter() > end:
            break
        if count in times and min(times[count]) > HOPELESS * min(map(min, times.values())):
            continue
        torch.set_num_threads(count)
        times.setdefault(count, []).append(_seconds(agent, batch))
    best = fastest({count: min(seen) for count, seen in times.items()})
    torch.set_num_threads(best)
    return best


def fastest(seconds: Mapping[int, float]) -> int:
    """The fewest threads from which on no more of them are faster by `GAIN`."""
    best, *others = sorted(seconds)
    for count in others:
        if seconds[count] * GAIN < seconds[best]:
            best = count
    return best


def early(config: Any) -> Any:
    """The same settings, but that a replay is learned from at once."""
    names = {f.name for f in fields(config)}
    return replace(config, learning_starts=0) if "learning_starts" in names else config


def _first_batch(tasks: VectorEnv, agent: Agent) -> Transition:
    """What the agent is the first to learn from."""
    introduce(agent, tasks)
    agent.plan(2**31)
    actor, obs = agent.actor(tasks.num_envs), tasks.reset(0)
    while True:
        action, extras = actor.act(obs)
        transition, obs = tasks.step(action, extras)
        actor.reset(transition.over)
        agent.observe(transition)
        for batch in agent.memory.batches():
            return batch


def _seconds(agent: Agent, batch: Transition) -> float:
    """Of an update, the median of some."""
    seen: list[float] = []
    while sum(seen) < SECONDS:
        before = time.perf_counter()
        agent.learn(batch)
        seen.append(time.perf_counter() - before)
    return median(seen[1:] or seen)  # the first of several starts threads and fills caches
