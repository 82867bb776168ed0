"""Times the replay here, Stable-Baselines3's and a sum tree in plain Python, in alternation.

    python scripts/benchmark_replay.py --entries 1000000 --batch-size 64

All of them are full and hold CartPole's observations. One turn adds a step of `num_envs`
environments and draws a batch as tensors; the prioritised ones give the new transitions the highest
priority. "priorities" is what telling a batch's TD errors takes beyond that, which uniform replay
has no counterpart of. The last line is how much longer a turn of prioritised replay takes than one
of Stable-Baselines3's uniform replay, median and range over the rounds.
"""

from __future__ import annotations

import platform
import random
import sys

try:
    import math
    import time
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
    from statistics import median

    import numpy as np
    import torch
    from gymnasium import spaces

    import envs  # noqa: F401  (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents.memory import Replay
    from agents.runner.arguments import (
        MAX_THREADS,
        BadInput,
        bad_input,
        check_ranges,
        guarded,
        parse,
    )
    from envs.transition import Transition
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

OBS_SIZE = 4


@dataclass(frozen=True)
class Options:
    """Time replays of a million transitions against each other."""

    entries: int = 1_000_000
    """Transitions that each of them holds."""
    num_envs: int = 8
    """Transitions added at once."""
    batch_size: int = 64
    """Transitions drawn at once."""
    turns: int = 300
    """Turns in each timing."""
    rounds: int = 15
    """Timings of each, after one that does not count."""
    threads: int = 1
    """CPU threads of PyTorch."""


@dataclass(frozen=True)
class Side:
    """One replay, full: what adds a step, draws a batch, and tells the TD errors of that batch."""

    add: Callable[[], object]
    sample: Callable[[], object]
    tell: Callable[[], object] | None = None


def ours(options: Options, rng: np.random.Generator, alpha: float) -> Side:
    """`Replay`, with priorities when `alpha` > 0."""
    memory = Replay(
        options.entries,
        options.batch_size,
        1 / options.num_envs,
        0,
        np.random.default_rng(0),
        obs_size=OBS_SIZE,
        priority_exponent=alpha,
    )
    step = some(options.num_envs, rng)
    block = some(min(options.entries, 10_000), rng)
    while memory.added < options.entries:
        memory.add(block)
    memory.drawn += memory.due
    if alpha:
        every = np.arange(memory.oldest, memory.added)
        memory.reprioritize(every, rng.exponential(size=len(every)))
    error = rng.standard_normal(options.batch_size)
    index = np.zeros(options.batch_size, np.int64)

    def sample() -> None:
        nonlocal index
        batch = next(memory.batches())
        if alpha:
            index = batch.extras["index"]

    tell = (lambda: memory.reprioritize(index, error)) if alpha else None
    return Side(lambda: memory.add(step), sample, tell)


def sb3(options: Options, rng: np.random.Generator) -> Side:
    """Stable-Baselines3's uniform replay."""
    from stable_baselines3.common.buffers import ReplayBuffer

    size = options.entries // options.num_envs * options.num_envs
    observation_space, action_space = spaces.Box(-1, 1, (OBS_SIZE,)), spaces.Discrete(2)
    memory = ReplayBuffer(size, observation_space, action_space, "cpu", options.num_envs)
    step = some(options.num_envs, rng)
    infos: list[dict[str, bool]] = [{} for _ in range(options.num_envs)]
    flags = step.terminated.astype(np.float32)

    def add() -> None:
        memory.add(step.obs, step.next_obs, step.action, step.reward, flags, infos)

    while not memory.full:
        add()
    return Side(add, lambda: memory.sample(options.batch_size))


def plain(options: Options, rng: np.random.Generator) -> Side:
    """A list of transitions and a binary sum tree, one Python step for each node visited."""
    size, step = options.entries, some(options.num_envs, rng)
    leaves = 1 << (size - 1).bit_length()
    nodes = [0.0] * leaves + [1.0] * size + [0.0] * (leaves - size)
    for node in range(leaves - 1, 0, -1):
        nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
    fields = ("obs", "action", "reward", "next_obs", "terminated")
    row = tuple(getattr(step, name)[0] for name in fields)
    rows, place = [row] * size, 0
    drawn: list[int] = []
    errors = rng.standard_normal(options.batch_size).tolist()
    chance = random.Random(0)

    def put(i: int, weight: float) -> None:
        node = i + leaves
        nodes[node] = weight
        while node > 1:
            node //= 2
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]

    def add() -> None:
        nonlocal place
        for i in range(options.num_envs):
            rows[place] = tuple(getattr(step, name)[i] for name in fields)
            put(place, 1.0)
            place = (place + 1) % size

    def sample() -> list[torch.Tensor]:
        nonlocal drawn
        drawn, part = [], nodes[1] / options.batch_size
        for i in range(options.batch_size):
            mass, node = (i + chance.random()) * part, 1
            while node < leaves:
                node *= 2
                if mass >= nodes[node]:
                    mass -= nodes[node]
                    node += 1
            drawn.append(min(node - leaves, size - 1))
        weight = np.array([nodes[leaves + i] for i in drawn])
        columns = zip(*(rows[i] for i in drawn), strict=True)
        weight = (weight / weight.min()) ** -0.4
        return [torch.from_numpy(np.array(column)) for column in (*columns, weight)]

    def tell() -> None:
        for i, error in zip(drawn, errors, strict=True):
            put(i, (abs(error) + 1e-6) ** 0.6)

    return Side(add, sample, tell)


def some(count: int, rng: np.random.Generator) -> Transition:
    """A step of so many environments."""
    obs, next_obs = rng.standard_normal((2, count, OBS_SIZE)).astype(np.float32)
    flags = np.zeros(count, bool)
    reward = np.ones(count, np.float32)
    return Transition(obs, rng.integers(2, size=count), reward, next_obs, flags, flags, ~flags)


def compare(options: Options) -> None:
    """Time all sides in turn and print what came of it. Raises BadInput."""
    positive = (1, math.inf)
    check_ranges(options, entries=positive, num_envs=positive, batch_size=positive)
    check_ranges(options, turns=positive, rounds=positive, threads=(1, MAX_THREADS))
    if options.entries < options.num_envs:
        raise BadInput(f"--entries {options.entries}: use at least --num-envs {options.num_envs}")
    try:
        import stable_baselines3
    except ImportError:
        raise BadInput(
            "Stable-Baselines3 is not installed: pip install 'chainrule[benchmark]'"
        ) from None
    torch.set_num_threads(options.threads)
    print(
        f"{options.entries:,} entries, {options.num_envs} added and {options.batch_size} drawn a "
        f"turn, {options.threads} thread(s), numpy {np.__version__}, torch {torch.__version__}, "
        f"stable-baselines3 {stable_baselines3.__version__}, {platform.machine()}"
    )
    rng = np.random.default_rng(0)
    with bad_input():
        sides = {
            "chainrule uniform": ours(options, rng, 0.0),
            "chainrule prioritised": ours(options, rng, 0.6),
            "sb3 uniform": sb3(options, rng),
            "plain prioritised": plain(options, rng),
        }
    took: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        order = list(sides.items())
        for name, side in order[number % 4 :] + order[: number % 4]:  # none always runs first
            found = timed(side, options.turns)
            if number:  # the first warms up
                took[name].append(found)
    print(f"{'':24}{'add /s':>12}{'sample /s':>12}{'turn µs':>12}{'priorities µs':>16}")
    for name, rounds in took.items():
        add, sample, tell = (median(t[part] for t in rounds) for part in ("add", "sample", "tell"))
        turn = median(t["add"] + t["sample"] for t in rounds)
        told = f"{1e6 * tell:16.1f}" if sides[name].tell is not None else f"{'-':>16}"
        print(f"{name:24}{1 / add:12.0f}{1 / sample:12.0f}{1e6 * turn:12.1f}{told}")

    def over(name: str, *also: str) -> list[float]:
        pairs = zip(took[name], took["sb3 uniform"], strict=True)
        turns = ("add", "sample")
        return [sum(a[p] for p in (*turns, *also)) / sum(b[p] for p in turns) for a, b in pairs]

    ratios = over("chainrule prioritised")
    print(
        f"ratio={median(ratios):.3f} min={min(ratios):.3f} max={max(ratios):.3f} "
        f"with_priorities={median(over('chainrule prioritised', 'tell')):.3f} "
        f"uniform={median(over('chainrule uniform')):.3f} "
        f"plain={median(over('plain prioritised')):.3f}"
    )


def timed(side: Side, turns: int) -> dict[str, float]:
    """Seconds of each part of a turn: the median, which does not count what else the computer did
    meanwhile."""
    clock, marks = time.perf_counter, np.zeros((4, turns))
    for turn in range(turns):
        start = clock()
        side.add()
        added = clock()
        side.sample()
        sampled = clock()
        if side.tell is not None:
            side.tell()
        marks[:, turn] = start, added, sampled, clock()
    parts = np.median(np.diff(marks, axis=0), axis=1).tolist()
    return dict(zip(("add", "sample", "tell"), parts, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        compare(parse(Options, sys.argv[1:] if argv is None else argv))
        return 0

    return guarded("benchmark_replay.py", run)


if __name__ == "__main__":
    sys.exit(main())
