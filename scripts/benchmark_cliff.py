"""What on-policy means: SARSA against Q-learning on the cliff (Sutton & Barto 2018, fig. 6.4).

    python scripts/benchmark_cliff.py

Both explore with the same constant ε, learn online from one environment, one transition an update,
with the same network (as good as a table of Q) and the same optimiser. They differ in their
targets alone. Q-learning learns what the best policy would get, walks along the
edge, and falls whenever it explores there; SARSA learns what the exploring policy gets, and keeps
away. Prints what each got while it learned, over the last half of its episodes, and the greedy path
of the first seed. The last line gives the means over the seeds.
"""

from __future__ import annotations

import sys

try:
    import math
    from collections.abc import Sequence
    from dataclasses import dataclass
    from typing import Any

    import numpy as np
    import torch
    from torch import Tensor, nn

    import envs

    # isort: split
    from agents import (
        PQN,
        SARSA,
        Agent,
        Callback,
        OptimConfig,
        PQNConfig,
        Run,
        SARSAConfig,
        train,
    )
    from agents.runner.arguments import bad_input, check_ranges, guarded, parse, seed_list
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

ENV, ROWS, COLUMNS = "CliffWalking-v1", 4, 12
START, GOAL = 36, 47
EDGE = range(25, 35)
"""The states above the cliff."""


@dataclass(frozen=True)
class Options:
    """Train SARSA and Q-learning on CliffWalking and compare what they get while they learn."""

    seeds: tuple[str, ...] = ("100-104",)
    """Seeds and ranges of seeds, both ends included: 100-104, or 100 101 107."""
    episodes: int = 300
    """Training episodes of each run."""
    epsilon: float = 0.1
    """Probability of a random action, from beginning to end."""
    step_size: float = 0.5
    """Share of a TD error that an update makes good."""
    max_episode_steps: int = 1000
    """Where an episode is cut off: the task itself sets no limit."""


class Table(nn.Module):
    """A trunk that makes of the head above it a table: the state, one-hot, and times `scale`.

    The larger the features are, the less of a step goes into the bias, which all states share.
    """

    scale = 10.0

    def __init__(self, states: int) -> None:
        super().__init__()
        self.out_features = states

    def forward(self, one_hot: Tensor) -> Tensor:
        return one_hot * self.scale


class Episodes(Callback):
    """Keeps the returns of the training episodes, and ends the run after so many."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.returns: list[float] = []

    def stepped(self, run: Run, transition: envs.Transition) -> None:
        self.returns += [episode.return_ for episode in run.envs.episodes]
        if len(self.returns) >= self.count:
            run.stop("every episode was played")


def sarsa(options: Options) -> tuple[type[Agent], SARSAConfig]:
    """One-step SARSA; its target network is the online one."""
    return SARSA, SARSAConfig(loss="squared", target_every=1, **shared(options))


def q_learning(options: Options) -> tuple[type[Agent], PQNConfig]:
    """One-step Q-learning: PQN with λ = 0 and one pass."""
    return PQN, PQNConfig(td_lambda=0.0, epochs=1, batch_size=1, **shared(options))


def shared(options: Options) -> dict[str, Any]:
    """The settings that both have."""
    # Down the slope 2 e of e², by the weight of the state and by the bias.
    lr = options.step_size / (2 * (Table.scale**2 + 1))
    return {
        "gamma": 1.0,
        "rollout_size": 1,
        "epsilon_start": options.epsilon,
        "epsilon_end": options.epsilon,
        "optim": OptimConfig(optimizer="sgd", lr=lr, stats_every=0),
    }


def run(cls: type[Agent], config: Any, options: Options, seed: int) -> tuple[float, list[int]]:
    """Mean return of the last half of the training episodes, and the greedy path after them."""
    with envs.make(ENV, num_envs=1, max_episode_steps=options.max_episode_steps) as tasks:
        spaces = tasks.observation_space, tasks.action_space
        agent = cls(*spaces, config, seed=seed, trunk=Table(ROWS * COLUMNS))
        episodes = Episodes(options.episodes)
        train(agent, tasks, options.episodes * options.max_episode_steps, [episodes])
        half = episodes.returns[options.episodes // 2 : options.episodes]
        return float(np.mean(half)), greedy_path(agent, tasks, seed)


def greedy_path(agent: Agent, tasks: envs.VectorEnv, seed: int) -> list[int]:
    """States from the start on, until the episode ends or one is entered again."""
    path = [int(tasks.reset(seed)[0])]
    while True:
        transition, _ = tasks.step(agent.act(np.array(path[-1:])))
        path.append(int(transition.next_obs[0]))
        if transition.done[0] or path[-1] in path[:-1]:
            return path


def drawing(path: list[int]) -> str:
    """The grid with the start S, the goal G, the cliff # and the cells of a path *."""
    cells = np.full((ROWS, COLUMNS), ".")
    cells[-1, 1:-1] = "#"
    cells.flat[path] = "*"
    cells.flat[[START, GOAL]] = "S", "G"
    return "\n".join(" ".join(row) for row in cells)


def compare(options: Options) -> None:
    """Train both agents and print what came of it. Raises BadInput."""
    positive = (1, math.inf)
    check_ranges(options, episodes=positive, max_episode_steps=positive)
    with bad_input():
        seeds = seed_list(options.seeds)
        agents = {"sarsa": sarsa(options), "q_learning": q_learning(options)}
    torch.set_num_threads(1)
    means = {}
    for name, (cls, config) in agents.items():
        results = [run(cls, config, options, seed) for seed in seeds]
        returns, paths = zip(*results, strict=True)
        means[name] = np.mean(returns)
        arrived = [path for path in paths if path[-1] == GOAL]
        along = sum(set(EDGE) <= set(path) for path in arrived)
        each = " ".join(f"{return_:.1f}" for return_ in returns)
        print(f"{name}: online return of seeds {' '.join(options.seeds)}: {each}")
        print(
            f"greedy path: reaches the goal with {len(arrived)} of {len(seeds)} seeds, "
            f"along the edge with {along}; the first one's, {len(paths[0]) - 1} steps:"
        )
        print(drawing(paths[0]), end="\n\n", flush=True)
    print(" ".join(f"{name}={mean:.1f}" for name, mean in means.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        compare(parse(Options, sys.argv[1:] if argv is None else argv))
        return 0

    return guarded("benchmark_cliff.py", run)


if __name__ == "__main__":
    sys.exit(main())
