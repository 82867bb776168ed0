"""Times an agent here and in Stable-Baselines3 on the same workload, in alternation.

    python scripts/benchmark_speed.py --agent ppo --env CartPole-v1 --peer sb3

Both step the same looped Gymnasium environments, have the same networks, and make the same number
of updates on batches of the same size; that they did is checked. Recording is on here, as it is in
a training run. `--peer plain` compares with the same agent without gradient statistics instead:
what they cost. The last line is the ratio of the speeds, median and range over the rounds.
"""

from __future__ import annotations

import sys

try:
    import csv
    import math
    import platform
    import time
    from collections.abc import Callable
    from dataclasses import dataclass, replace
    from functools import partial
    from pathlib import Path
    from statistics import median
    from tempfile import TemporaryDirectory
    from typing import Any, Literal

    import gymnasium
    import torch

    import envs

    # isort: split
    from agents import (
        A2C,
        DQN,
        PPO,
        SAC,
        TD3,
        A2CConfig,
        Agent,
        AgentConfig,
        DQNConfig,
        PPOConfig,
        SACConfig,
        TD3Config,
        train,
    )
    from agents.core.network import NetworkConfig
    from agents.core.optimizers import OptimConfig
    from agents.runner.arguments import (
        MAX_THREADS,
        BadInput,
        bad_input,
        check_ranges,
        guarded,
        parse,
    )
    from agents.runner.recorder import Recorder
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)


@dataclass(frozen=True)
class Options:
    """Time an agent against a peer on one workload, in alternation."""

    agent: Literal["ppo", "dqn", "a2c", "sac", "td3"]
    """What is trained: PPO and A2C with SB3's defaults in 8 copies of the environment, DQN with
    RL-Zoo's settings for CartPole, SAC and TD3 with those for MuJoCo in the --env that is named."""
    env: str = "CartPole-v1"
    """Gymnasium id of the task."""
    peer: Literal["sb3", "plain"] = "sb3"
    """Stable-Baselines3 by wall time, or the same agent without statistics by CPU time."""
    rounds: int = 5
    """Timings of each side, after one that does not count."""
    steps: int | None = None
    """Environment steps of each timing, rounded up to whole updates; None: some ten seconds."""
    threads: int = 1
    """CPU threads of PyTorch, for both sides."""
    out: Path | None = None
    """Add a row for each round to this CSV file."""


@dataclass(frozen=True)
class Workload:
    """One setting, in the words of both sides."""

    agent: type[Agent]
    config: AgentConfig
    peer: dict[str, Any]
    """Arguments of SB3's class of the same name, where they are not its defaults."""
    num_envs: int
    unit: int
    """Environment steps from one round of updates to the next."""
    steps: int


WORKLOADS = {
    "ppo": Workload(
        PPO,
        PPOConfig(
            rollout_size=8 * 2048,
            batch_size=64,
            epochs=10,
            optim=OptimConfig(lr=3e-4, eps=1e-5, max_grad_norm=0.5),
        ),
        {},
        num_envs=8,
        unit=8 * 2048,
        steps=2 * 8 * 2048,
    ),
    "a2c": Workload(
        A2C,
        A2CConfig(rollout_size=8 * 5),
        {},
        num_envs=8,
        unit=8 * 5,
        steps=40_000,
    ),
    # 128 updates after every 256 steps. The first 256 steps that end past learning_starts = 1000
    # train there, so training is counted here from 768. There the target is copied every 10 steps,
    # none of which falls between updates of one burst: here once a burst.
    "dqn": Workload(
        DQN,
        DQNConfig(
            learning_starts=768,
            updates_per_step=0.5,
            train_every=256,
            target_every=128,
            double=False,
            epsilon_end=0.04,
            network=NetworkConfig((256, 256), activation="relu"),
            optim=OptimConfig(lr=2.3e-3, max_grad_norm=10.0),
        ),
        {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "gamma": 0.99,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
        num_envs=1,
        unit=256,
        steps=10_240,
    ),
    "sac": Workload(
        SAC,
        SACConfig(learning_starts=100),
        {},
        num_envs=1,
        unit=1,
        steps=1_500,
    ),
    "td3": Workload(
        TD3,
        TD3Config(
            learning_starts=100,
            network=NetworkConfig((400, 300), activation="relu"),
            critic_network=NetworkConfig((400, 300), activation="relu", shared_trunk=False),
            optim=OptimConfig(lr=1e-3),
            critic_optim=OptimConfig(lr=1e-3),
        ),
        {},
        num_envs=1,
        unit=1,
        steps=1_500,
    ),
}


@dataclass(frozen=True)
class Timing:
    """What one training run did and took, without setting up."""

    steps: int
    updates: int
    """Steps of the optimiser."""
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of the process's CPU time."""


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(
    work: Workload, env: str, seed: int, statistics: bool = True
) -> tuple[Agent, envs.VectorEnv]:
    """The agent and its environments, looped as the peer's are."""
    config = work.config
    if not statistics:
        parts = ("optim", "critic_optim")
        quiet = {n: replace(getattr(config, n), stats_every=0) for n in parts if hasattr(config, n)}
        config = replace(config, **quiet)
    tasks = envs.VectorEnv([gymnasium.make(env) for _ in range(work.num_envs)])
    return work.agent(tasks.observation_space, tasks.action_space, config, seed=seed), tasks


def time_here(work: Workload, env: str, steps: int, seed: int, statistics: bool = True) -> Timing:
    """`train` with a Recorder that writes into a folder."""
    agent, tasks = ours(work, env, seed, statistics)
    with TemporaryDirectory() as folder:
        took = timed(lambda: train(agent, tasks, steps, [Recorder(folder)]))
    updates = max(learner.updates for learner in agent.learners.values())
    return Timing(agent.steps, updates, *took)


def sb3(work: Workload, env: str, seed: int) -> Any:
    """SB3's model of the same name."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env

    cls = getattr(stable_baselines3, work.agent.__name__)
    tasks = make_vec_env(env, work.num_envs, seed=seed)
    return cls("MlpPolicy", tasks, seed=seed, device="cpu", **work.peer)


def time_sb3(work: Workload, env: str, steps: int, seed: int) -> Timing:
    """`model.learn` as it comes, without logging."""
    model = sb3(work, env, seed)
    took = timed(lambda: model.learn(steps))
    optimizer = (getattr(model, "critic", None) or model.policy).optimizer
    moments = [*optimizer.state.values()]
    return Timing(model.num_timesteps, int(moments[0]["step"]) if moments else 0, *took)


def compare(options: Options) -> None:
    """Time both sides in turn and print what came of it. Raises BadInput and RuntimeError."""
    work = WORKLOADS[options.agent]
    check_ranges(options, rounds=(1, math.inf), threads=(1, MAX_THREADS), steps=(1, math.inf))
    steps = -(-(options.steps or work.steps) // work.unit) * work.unit
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    with bad_input(AssertionError, NotImplementedError, RuntimeError):  # as SB3 refuses a space
        envs.make(options.env, num_envs=1).close()  # says what is missing
        env = envs.spec(options.env).id
        ours(work, env, seed=0)
        if options.peer == "sb3":
            try:
                sb3(work, env, seed=0)
            except ImportError:
                raise BadInput(
                    "Stable-Baselines3 is not installed: pip install 'chainrule[benchmark]'"
                ) from None
        if options.out is not None:
            options.out.open("a").close()  # whether it can be written shows before the timings

    other = time_sb3 if options.peer == "sb3" else partial(time_here, statistics=False)
    clock = "wall" if options.peer == "sb3" else "cpu"
    print(
        f"{options.agent} on {options.env}: {steps} steps a run, {work.num_envs} environments, "
        f"{options.threads} thread(s), {clock} time, torch {torch.__version__}, "
        f"{platform.machine()}"
    )
    ratios = []
    for number in range(options.rounds + 1):
        sides = {"chainrule": time_here, options.peer: other}
        if number % 2:  # neither side always runs first
            sides = dict(reversed(sides.items()))
        found = {name: side(work, env, steps, number) for name, side in sides.items()}
        here, there = found["chainrule"], found[options.peer]
        if (here.steps, here.updates) != (there.steps, there.updates):
            raise RuntimeError(f"the workloads differ: {here} here, {there} in {options.peer}")
        if not here.updates:
            raise BadInput(f"--steps is {options.steps}: too few for an update, use more")
        if number == 0:
            continue  # warming up
        speeds = {name: t.steps / getattr(t, clock) for name, t in found.items()}
        ratios.append(speeds["chainrule"] / speeds[options.peer])
        print(
            f"round {number}: chainrule {speeds['chainrule']:.0f} steps/s, {options.peer} "
            f"{speeds[options.peer]:.0f} steps/s, {here.updates} updates each, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
        if options.out is not None:
            _write(options, number, here.updates, speeds, ratios[-1])
    print(f"ratio={median(ratios):.3f} min={min(ratios):.3f} max={max(ratios):.3f}")


def _write(
    options: Options, number: int, updates: int, speeds: dict[str, float], ratio: float
) -> None:
    row = {
        "agent": options.agent,
        "env": options.env,
        "peer": options.peer,
        "threads": options.threads,
        "round": number,
        "updates": updates,
        "steps_per_second": round(speeds["chainrule"], 1),
        "peer_steps_per_second": round(speeds[options.peer], 1),
        "ratio": round(ratio, 4),
    }
    assert options.out is not None
    with bad_input(), options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def main(argv: list[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        compare(parse(Options, sys.argv[1:] if argv is None else argv))
        return 0

    return guarded("benchmark_speed.py", run)


if __name__ == "__main__":
    sys.exit(main())
