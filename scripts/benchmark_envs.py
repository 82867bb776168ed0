"""Times how fast each backend steps copies of a task, with random actions.

    python scripts/benchmark_envs.py --envs CartPole-v1 Pendulum-v1 --num-envs 8 64 1024
    python scripts/benchmark_envs.py --envs HalfCheetah-v5 --backends loop envpool --num-envs 8 64

Prints a Markdown table of thousands of steps per second of CPU time, of all threads together: what
else the computer did meanwhile does not count. Each figure is the median of `rounds`, in which the
backends take turns; "-" is where a backend does not have the task, and why is said below.
"""

from __future__ import annotations

import sys

try:
    import math
    import time
    from collections.abc import Sequence
    from dataclasses import dataclass
    from statistics import median

    import numpy as np

    import envs as environments  # (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents.runner.arguments import bad_input, check_ranges, guarded, parse
    from envs import Backend
    from envs.vector import VectorEnv
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

DRAWN = 256
"""Random actions that are drawn before the clock starts, and taken over and over."""


@dataclass(frozen=True)
class Options:
    """Time the backends of tasks against each other."""

    envs: tuple[str, ...] = ("CartPole-v1", "Pendulum-v1")
    """Gymnasium environment ids."""
    num_envs: tuple[int, ...] = (8, 64, 1024)
    """How many copies are stepped at once."""
    backends: tuple[Backend, ...] = ("loop", "auto", "vector")
    """Backends of `envs.make`."""
    seconds: float = 0.5
    """CPU time of each timing."""
    rounds: int = 3
    """Timings of each."""


def rate(tasks: VectorEnv, seconds: float) -> float:
    """Steps of single environments per second of CPU time."""
    space, batch = tasks.action_space, tasks.num_envs
    space.seed(0)
    actions = [np.stack([space.sample() for _ in range(batch)]) for _ in range(DRAWN)]
    tasks.reset(0)
    taken, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        tasks.step(actions[taken % DRAWN], {})
        taken += 1
    return taken * batch / (time.process_time() - start)


def rates(env: str, num_envs: int, options: Options, why: dict[str, None]) -> str:
    """The median rate of each backend, in thousands; "-" for one that cannot step it.

    `why` is told the reason.
    """
    made: list[VectorEnv | None] = []
    for backend in options.backends:
        try:
            made.append(environments.make(env, num_envs, backend=backend))
        except ValueError as error:
            why[str(error)] = None
            made.append(None)
    found: list[list[float]] = [[] for _ in made]
    for _ in range(options.rounds):
        for tasks, own in zip(made, found, strict=True):
            if tasks is not None:
                own.append(rate(tasks, options.seconds))
    for tasks in made:
        if tasks is not None:
            tasks.close()
    return ", ".join(_thousands(median(own)) if own else "-" for own in found)


def _thousands(steps: float) -> str:
    return f"{steps / 1000:,.0f}" if steps >= 10_000 else f"{steps / 1000:.2g}"


def compare(options: Options) -> None:
    """Print the table, a row as soon as it is there."""
    with bad_input():
        check_ranges(options, seconds=(1e-3, math.inf), rounds=(1, math.inf))
        for env in options.envs:
            environments.spec(env)
        if min(options.num_envs, default=0) < 1:
            raise ValueError(f"--num-envs {options.num_envs}: use numbers of 1 or more")
    why: dict[str, None] = {}
    print(f"| {', '.join(options.backends)} | {' | '.join(map(str, options.num_envs))} |")
    print("| --- |" + " --- |" * len(options.num_envs))
    for env in options.envs:
        cells = [rates(env, count, options, why) for count in options.num_envs]
        print(f"| {env} | {' | '.join(cells)} |", flush=True)
    for reason in why:
        print(f"\n{reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
        compare(options)
        return 0

    return guarded("benchmark_envs.py", run)


if __name__ == "__main__":
    sys.exit(main())
