"""Deep exploration: which agents find the treasure of DeepSea, and after how many episodes.

    python scripts/benchmark_deep_sea.py --agents bootstrapped_dqn dqn

A sea of size 20 hides its treasure from random actions behind twenty right ones in a row, one
episode in a million; each of them costs something at once. It is solved after the first episode
with which the treasure was found in 90 of the last 100. Every agent has its preset for DeepSea.
Prints a table of the episodes of solving and the wall time; the last line counts the seeds.
"""

from __future__ import annotations

import sys

try:
    import math
    import time
    from collections.abc import Sequence
    from dataclasses import dataclass, replace
    from statistics import mean
    from typing import Any

    import torch

    import envs

    # isort: split
    from agents import DQN, Agent, BootstrappedDQN, Callback, Run, preset_for, train
    from agents.core.network import NetworkConfig
    from agents.runner.arguments import (
        BadInput,
        bad_input,
        check_ranges,
        guarded,
        parse,
        seed_list,
    )
    from envs.deep_sea import ID, solved
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

ROSTER: dict[str, tuple[type[Agent], dict[str, Any]]] = {
    "bootstrapped_dqn": (BootstrappedDQN, {}),
    "dqn": (DQN, {}),
    "dqn_ez_greedy": (DQN, {"exploration": "ez_greedy"}),
    "dqn_boltzmann": (DQN, {"exploration": "boltzmann", "temperature": 0.01}),
    "dqn_noisy": (
        DQN,
        {
            "epsilon_start": 0.0,
            "epsilon_end": 0.0,
            "network": NetworkConfig((50, 50), activation="relu", noisy=True),
        },
    ),
}
"""Agents by name, with what they change in their presets."""


@dataclass(frozen=True)
class Options:
    """Train agents on DeepSea and tabulate after how many episodes they solve it."""

    agents: tuple[str, ...] = ("bootstrapped_dqn", "dqn")
    """Which: bootstrapped_dqn, dqn, dqn_ez_greedy, dqn_boltzmann, dqn_noisy."""
    seeds: tuple[str, ...] = ("100-104",)
    """Seeds and ranges of seeds, both ends included: 100-104, or 100 101 107."""
    size: int = 20
    """Rows and columns of the sea."""
    episodes: int = 2000
    """Training episodes after which a run ends unsolved."""


class UntilSolved(Callback):
    """Ends the run as soon as the sea is solved, or after so many episodes."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes
        self.returns: list[float] = []
        self.solved: int | None = None
        """Episodes until then."""

    def stepped(self, run: Run, transition: envs.Transition) -> None:
        for episode in run.envs.episodes:
            self.returns.append(episode.return_)
            if self.solved is None and solved(self.returns):
                self.solved = len(self.returns)
        if self.solved is not None or len(self.returns) >= self.episodes:
            run.stop("solved" if self.solved is not None else "every episode was played")


def dive(name: str, seed: int, options: Options) -> int | None:
    """The episode of solving in one run; None if it was not."""
    cls, changes = ROSTER[name]
    preset = preset_for(cls, ID)
    config = replace(preset.agent if preset else cls.Config(), **changes)
    num_envs = (preset and preset.num_envs) or 1
    with envs.make(ID, num_envs=num_envs, size=options.size) as sea:
        agent = cls(sea.observation_space, sea.action_space, config, seed=seed)
        watch = UntilSolved(options.episodes)
        train(agent, sea, options.episodes * options.size, [watch])
    return watch.solved


def compare(options: Options) -> None:
    """Run all agents with all seeds and print what came of it. Raises BadInput."""
    for name in options.agents:
        if name not in ROSTER:
            raise BadInput(f"--agents {name}: there is {', '.join(ROSTER)}")
    positive = (1, math.inf)
    check_ranges(options, size=positive, episodes=positive)
    with bad_input():
        seeds = seed_list(options.seeds)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(f"size {options.size}, {options.episodes} episodes at most; episodes until solved:")
    print(_row("agent", [f"seed {seed}" for seed in seeds], "seconds a run"))
    counts = {}
    for name in options.agents:
        found, seconds = [], []
        for seed in seeds:
            began = time.perf_counter()
            with bad_input():
                found.append(dive(name, seed, options))
            seconds.append(time.perf_counter() - began)
        cells = ["-" if episode is None else str(episode) for episode in found]
        print(_row(name, cells, f"{mean(seconds):.0f}"), flush=True)
        counts[name] = sum(episode is not None for episode in found)
    print("solved", *(f"{name}={count}/{len(seeds)}" for name, count in counts.items()))


def _row(name: str, cells: Sequence[str], last: str) -> str:
    return " ".join([f"{name:20}", *(f"{cell:>9}" for cell in cells), f"{last:>14}"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        compare(parse(Options, sys.argv[1:] if argv is None else argv))
        return 0

    return guarded("benchmark_deep_sea.py", run)


if __name__ == "__main__":
    sys.exit(main())
