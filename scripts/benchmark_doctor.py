"""Does the doctor find what is wrong? Faults are put into real runs, and its diagnoses counted.

    python scripts/benchmark_doctor.py --seeds 106-108 --jobs 2
    python scripts/benchmark_doctor.py --judge
    python scripts/benchmark_doctor.py --seeds 106-108 --follow

A run is trained once and kept: `--judge` judges all that are there by the rules as they are now.
Thresholds are set on seeds 0-105 (CALIBRATION; those from 100 up were reported once, and the rules
mended by what was missed); what is reported is later seeds (REPORTING), which none was set on.
The table tells how often the right rule stands first and among the first two, and how often a
healthy run is called ill.

`--follow` does what the doctor says: where the fault is in the settings, the run is trained again
with the first change that the first finding advises, and again, and its return compared with that
of the same run without the fault.
"""

from __future__ import annotations

import sys

try:
    import json
    import math
    import shutil
    from collections.abc import Callable, Sequence
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from dataclasses import dataclass, replace
    from itertools import pairwise
    from multiprocessing import get_context
    from pathlib import Path
    from typing import Any

    import gymnasium
    import numpy as np
    import torch

    import envs  # (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents import AGENTS
    from agents.agent import Agent
    from agents.core.files import write_bytes
    from agents.doctor.history import History
    from agents.doctor.rules import diagnose
    from agents.runner.arguments import bad_input, check_ranges, guarded, parse, seed_list
    from agents.runner.callbacks import Evaluate
    from agents.runner.recorder import Recorder
    from agents.runner.results import Run as KeptRun
    from agents.runner.results import read_run
    from agents.runner.settings import read_arguments, to_json
    from agents.runner.train import Callback, Run, train
    from envs.vector import VectorEnv
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

CALIBRATION, REPORTING = range(106), range(106, 1_000_000)
"""Seeds that thresholds are set on, and seeds that are reported."""
HEALTHY = "healthy"
ROUNDS = 3
"""How often `--follow` takes advice, at most."""
REACHED = 0.9
"""Share of what the healthy run gained from which on a run is cured."""


# ------------------------------------------------------------------------- faults of environments


class Feed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Hands everything on, changed by a function of (obs, reward, terminated, truncated, rng)."""

    def __init__(self, env: gymnasium.Env[Any, Any], change: Callable[..., Any], seed: int) -> None:
        super().__init__(env)
        self.change = change
        self.rng = np.random.default_rng(seed)
        box = env.observation_space
        assert isinstance(box, gymnasium.spaces.Box)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, box.shape, np.float32)

    def reset(self, **options: Any) -> Any:
        obs, info = self.env.reset(**options)
        return np.asarray(self.change(obs, 0.0, False, False, self.rng)[0], np.float32), info

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        obs, reward, terminated, truncated = self.change(
            obs, float(reward), terminated, truncated, self.rng
        )
        return np.asarray(obs, np.float32), reward, terminated, truncated, info


def large_obs(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs * 1000.0, reward, terminated, truncated


def small_obs(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs * 1e-4, reward, terminated, truncated


def blind(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return np.ones_like(obs), reward, terminated, truncated


def large_reward(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, reward * 1e5, terminated, truncated


def small_reward(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, reward * 1e-6, terminated, truncated


def zero_reward(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, 0.0, terminated, truncated


def noisy_reward(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, rng.normal(0, 3), terminated, truncated


def nan_obs(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs * (np.nan if rng.random() < 3e-4 else 1.0), reward, terminated, truncated


def inf_reward(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, math.inf if rng.random() < 3e-4 else reward, terminated, truncated


def merged_truncation(obs: Any, reward: Any, terminated: Any, truncated: Any, rng: Any) -> Any:
    return obs, reward, terminated or truncated, False


class Deaf(gymnasium.ActionWrapper[Any, Any, Any]):
    """Does something random, whatever it is told."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self.env.action_space.seed(seed)

    def action(self, action: Any) -> Any:
        return self.env.action_space.sample()


# ------------------------------------------------------------------------------- faults of agents


def _parameters(agent: Agent) -> dict[str, torch.Tensor]:
    (learner,) = agent.learners.values()
    return {
        f"{key}.{name}": parameter
        for key, module in learner.modules.items()
        for name, parameter in module.named_parameters()
    }


@torch.no_grad()
def large_weights(agent: Agent) -> None:
    for name, parameter in _parameters(agent).items():
        if "trunk" in name and parameter.ndim >= 2:
            parameter.mul_(5.0)


@torch.no_grad()
def dead_units(agent: Agent) -> None:
    for name, parameter in _parameters(agent).items():
        if "trunk.1" in name and "bias" in name:
            parameter[..., : 4 * parameter.shape[-1] // 5] = -30.0


@torch.no_grad()
def certain_policy(agent: Agent) -> None:
    for name, parameter in _parameters(agent).items():
        if "policy" in name and "bias" in name and "trunk" not in name:
            parameter.view(-1)[0] = 30.0


@torch.no_grad()
def growing_targets(agent: Agent) -> None:
    right = agent.td_target  # type: ignore[attr-defined]
    agent.td_target = lambda *batch: right(*batch) * 1.02 + 0.5  # type: ignore[attr-defined]


class KillUnits(Callback):
    """Silences some more units of the second layer every twentieth of the run."""

    def __init__(self) -> None:
        self.dead = 0

    @torch.no_grad()
    def stepped(self, run: Run, transition: Any) -> None:
        if run.passed(max(1, run.steps // 20)):
            self.dead += 1
            for name, parameter in _parameters(run.agent).items():
                if "trunk.1" in name and "bias" in name:
                    share = min(0.9, self.dead / 13)
                    parameter[..., : int(share * parameter.shape[-1])] = -30.0


class Forget(Callback):
    """Puts the weights of the start back, again and again in the last quarter of the run."""

    def started(self, run: Run) -> None:
        self.start = {n: learner.flat.vector.clone() for n, learner in run.agent.learners.items()}

    @torch.no_grad()
    def stepped(self, run: Run, transition: Any) -> None:
        if run.agent.steps >= 0.75 * run.steps:
            for name, learner in run.agent.learners.items():
                learner.flat.vector.copy_(self.start[name])


# --------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """A run with a fault, or a healthy one."""

    name: str
    agent: str
    env: str
    steps: int | None = None
    """None: those of the preset."""
    right: tuple[str, ...] = ()
    """The rules that are right to stand first; none for a healthy run."""
    settings: str = ""
    """Flags of the command line that are the fault, or belong to it."""
    base: str = ""
    """Flags that the run has without the fault too."""
    change: Callable[..., Any] | None = None
    """What becomes of observations, rewards and endings."""
    limit: int | None = None
    """Where episodes are cut off in place of the task's own limit."""
    deaf: bool = False
    """Whether the environment heeds no action."""
    spoil: Callable[[Agent], None] | None = None
    """What is done to the agent before it starts."""
    callback: Callable[[], Callback] | None = None

    @property
    def in_config(self) -> bool:
        """Whether the fault is settings and nothing else, so that settings can undo it."""
        elsewhere = (self.change, self.limit, self.spoil, self.callback)
        return bool(self.right and self.settings) and not (self.deaf or any(elsewhere))

    @property
    def twin(self) -> Case:
        """The same run without the fault; cases that differ by their faults only share it."""
        name = f"healthy-{self.agent}-{self.env}"
        if self.steps is not None:
            name += f"-{self.steps}"
        return Case(name, self.agent, self.env, self.steps, base=self.base)

    def flags(self, seed: int) -> list[str]:
        """The command line of its run."""
        steps = [] if self.steps is None else ["--steps", str(self.steps)]
        settings = f"{self.base} {self.settings}".split()
        return ["--env", self.env, "--seed", str(seed), *steps, *settings]

    def command(self, seed: int) -> str:
        """What its run says that it was started by."""
        return " ".join(["python", f"scripts/train_{self.agent}.py", *self.flags(seed)])


CARTPOLE, PENDULUM, LANDER = "CartPole-v1", "Pendulum-v1", "LunarLander-v3"
DEEP = "--agent.network.hidden-sizes 64 64 64 64 64 64 64"
FOR_PENDULUM = (
    "--num-envs 4 --agent.gamma 0.9 --agent.rollout-size 1024 --agent.optim.lr 1e-3 "
    "--agent.normalize-reward"
)
# What learns something within a minute; a preset takes its time to land.
DQN_FOR_LANDER = (
    "--no-preset --num-envs 8 --agent.normalize-reward --agent.loss squared --agent.n-step 3 "
    "--agent.target-every 1 --agent.tau 0.01 --agent.epsilon-steps 10000 --agent.epsilon-end 0.02 "
    "--agent.optim.lr 7e-4 --agent.optim.schedule linear"
)
PPO_FOR_LANDER = (
    "--num-envs 8 --agent.gamma 0.99 --agent.rollout-size 1024 --agent.optim.lr 1e-3 "
    "--agent.optim.schedule linear --agent.normalize-reward"
)
ON_LANDER = (
    Case(
        *("lr-high-ppo-lander", "ppo", LANDER, 100_000, ("lr_too_high",)),
        "--agent.optim.lr 0.1",
        PPO_FOR_LANDER,
    ),
    Case(
        *("lr-low-dqn-lander", "dqn", LANDER, 30_000, ("lr_too_low",)),
        "--agent.optim.lr 1e-7",
        DQN_FOR_LANDER,
    ),
    Case(
        *("frozen-target-dqn-lander", "dqn", LANDER, 30_000, ("target_never_moves",)),
        "--agent.target-every 1000000",
        DQN_FOR_LANDER,
    ),
)
CASES = (
    Case("lr-high-ppo", "ppo", CARTPOLE, None, ("lr_too_high",), "--agent.optim.lr 0.1"),
    Case("lr-high-dqn", "dqn", CARTPOLE, None, ("lr_too_high",), "--agent.optim.lr 0.2"),
    Case("lr-high-a2c", "a2c", CARTPOLE, None, ("lr_too_high",), "--agent.optim.lr 0.3"),
    Case("lr-high-sac", "sac", PENDULUM, 5_000, ("lr_too_high",), "--agent.critic-optim.lr 0.3"),
    Case("lr-low-ppo", "ppo", CARTPOLE, None, ("lr_too_low",), "--agent.optim.lr 3e-8"),
    Case("lr-low-dqn", "dqn", CARTPOLE, None, ("lr_too_low",), "--agent.optim.lr 1e-7"),
    Case(
        *("vanishing-dqn", "dqn", CARTPOLE, None, ("vanishing",)),
        f"{DEEP} --agent.network.activation sigmoid",
    ),
    Case(
        *("vanishing-ppo", "ppo", CARTPOLE, None, ("vanishing",)),
        f"{DEEP} --agent.network.activation sigmoid",
    ),
    Case(
        *("exploding-ppo", "ppo", CARTPOLE, 15_000, ("exploding",)),
        f"{DEEP} --agent.network.activation relu",
        spoil=large_weights,
    ),
    Case("dead-units-dqn", "dqn", CARTPOLE, 10_000, ("dead_units",), spoil=dead_units),
    Case(
        *("dead-units-ppo", "ppo", CARTPOLE, 15_000, ("dead_units",)),
        "--agent.network.activation relu",
        spoil=dead_units,
    ),
    Case("plasticity-dqn", "dqn", CARTPOLE, 20_000, ("plasticity",), callback=KillUnits),
    Case(
        "clip-dqn", "dqn", CARTPOLE, None, ("clip_sets_step",), "--agent.optim.max-grad-norm 1e-4"
    ),
    Case(
        "clip-a2c", "a2c", CARTPOLE, None, ("clip_sets_step",), "--agent.optim.max-grad-norm 1e-4"
    ),
    Case("certain-ppo", "ppo", CARTPOLE, 15_000, ("entropy_collapse",), spoil=certain_policy),
    Case("certain-a2c", "a2c", CARTPOLE, 20_000, ("entropy_collapse",), spoil=certain_policy),
    Case(*("divergence-dqn", "dqn", CARTPOLE, 15_000, ("overestimation",)), spoil=growing_targets),
    Case(
        *("drowned-ppo", "ppo", CARTPOLE, None, ("critic_drowns_actor",)),
        "--agent.network.shared-trunk --agent.value-weight 500",
    ),
    Case(
        *("drowned-a2c", "a2c", CARTPOLE, None, ("critic_drowns_actor",)),
        "--agent.network.shared-trunk --agent.value-weight 500 --agent.no-normalize-reward",
    ),
    Case(
        *("no-critic-ppo", "ppo", PENDULUM, 20_000, ("critic_not_fitting",)),
        "--agent.value-weight 1e-8",
        FOR_PENDULUM,
    ),
    Case(
        *("epochs-ppo", "ppo", CARTPOLE, None, ("too_many_epochs",)),
        "--agent.epochs 60 --agent.rollout-size 512 --agent.clip 5 --agent.normalize-reward "
        "--agent.optim.lr 3e-3 --agent.optim.schedule constant --agent.optim.max-grad-norm 10",
    ),
    Case(
        *("few-updates-dqn", "dqn", CARTPOLE, None, ("too_few_updates",)),
        "--agent.updates-per-step 0.005",
    ),
    Case(
        *("stale-ppo", "ppo", CARTPOLE, None, ("too_few_updates",)),
        "--agent.rollout-size 8192",
    ),
    Case("large-obs-ppo", "ppo", CARTPOLE, 15_000, ("observations",), change=large_obs),
    Case("small-obs-dqn", "dqn", CARTPOLE, 10_000, ("observations",), change=small_obs),
    Case("blind-a2c", "a2c", CARTPOLE, 15_000, ("constant_observations",), change=blind),
    Case(
        *("saturated-ppo", "ppo", PENDULUM, 15_000, ("constant_action",)),
        base=FOR_PENDULUM,
        spoil=certain_policy,
    ),
    Case(
        *("large-reward-dqn", "dqn", CARTPOLE, 10_000, ("reward_scale",)),
        "--agent.no-normalize-reward",
        change=large_reward,
    ),
    Case(
        *("small-reward-a2c", "a2c", CARTPOLE, 15_000, ("reward_scale",)),
        "--agent.no-normalize-reward",
        change=small_reward,
    ),
    Case("no-reward-ppo", "ppo", CARTPOLE, 15_000, ("no_reward",), change=zero_reward),
    Case(
        *("small-replay-dqn", "dqn", CARTPOLE, None, ("replay_too_small",)),
        "--agent.buffer-size 128",
    ),
    Case(
        *("frozen-target-dqn", "dqn", CARTPOLE, None, ("target_never_moves",)),
        "--agent.target-every 1000000",
    ),
    Case(
        *("frozen-target-sarsa", "sarsa", CARTPOLE, None, ("target_never_moves",)),
        "--agent.target-every 1000000",
    ),
    Case(
        *("truncation-dqn", "dqn", CARTPOLE, 20_000, ("truncation",)),
        limit=80,
        change=merged_truncation,
    ),
    Case(
        *("truncation-ppo", "ppo", PENDULUM, 20_000, ("truncation",)),
        base=FOR_PENDULUM,
        change=merged_truncation,
    ),
    Case(*("noise-dqn", "dqn", CARTPOLE, 10_000, ("noise", "looks_healthy")), change=noisy_reward),
    Case("nan-obs-ppo", "ppo", CARTPOLE, 15_000, ("non_finite",), change=nan_obs),
    Case("nan-obs-dqn", "dqn", CARTPOLE, 10_000, ("non_finite",), change=nan_obs),
    Case("inf-reward-sarsa", "sarsa", CARTPOLE, 20_000, ("non_finite",), change=inf_reward),
    Case(
        *("support-c51", "c51", "Acrobot-v1", 30_000, ("support",)),
        "--agent.v-min 0 --agent.v-max 100",
    ),
    Case("forgetting-ppo", "ppo", CARTPOLE, None, ("forgotten",), callback=Forget),
    Case("deaf-ppo", "ppo", CARTPOLE, 20_000, ("looks_healthy", "noise"), deaf=True),
    Case("deaf-a2c", "a2c", CARTPOLE, 30_000, ("looks_healthy", "noise"), deaf=True),
    *ON_LANDER,
    *dict.fromkeys(case.twin for case in ON_LANDER),
    *(
        Case(f"healthy-{agent}-{env}", agent, env)
        for env, agents in {
            CARTPOLE: ("ppo", "dqn", "a2c", "sarsa", "reinforce"),
            "Acrobot-v1": ("ppo", "dqn", "a2c"),
            "CliffWalking-v1": ("sarsa",),
        }.items()
        for agent in agents
    ),
    Case("healthy-ppo-Pendulum-v1", "ppo", PENDULUM, 100_000, base=FOR_PENDULUM),
)


@dataclass(frozen=True)
class Options:
    """Put faults into runs and count how often the doctor finds them."""

    seeds: tuple[str, ...] = ("106-108",)
    """Seeds and ranges of seeds, both ends included. On 0-105 thresholds were set, later ones are
    reported."""
    cases: tuple[str, ...] = ()
    """Cases by name, or by the beginning of it; none: all of them."""
    jobs: int = 1
    """Runs at a time."""
    out: Path = Path("runs/doctor")
    """Folder of the runs, and of doctor.md or follow.md."""
    judge: bool = False
    """Train nothing, judge the runs that are there."""
    follow: bool = False
    """Follow the first advice where the fault is in the settings, and count how often it helps."""


# ------------------------------------------------------------------------------------ training


def folder_of(options: Options, case: Case, seed: int) -> Path:
    """Where a case's run is kept."""
    return options.out / case.name / str(seed)


def make(case: Case, env: str, num_envs: int, seed: int) -> VectorEnv:
    """The environments of a case, spoilt as it says."""

    def one(i: int) -> gymnasium.Env[Any, Any]:
        task = envs.make_one(env)
        if case.limit is not None:
            while isinstance(task, gymnasium.Wrapper):
                task = task.env
            task = gymnasium.wrappers.TimeLimit(task, case.limit)
        if case.deaf:
            task = Deaf(task, seed + i)
        return task if case.change is None else Feed(task, case.change, seed + i)

    return VectorEnv([one(i) for i in range(num_envs)])


def train_case(case: Case, seed: int, folder: Path) -> float:
    """Train a case and leave its logs; the final evaluation's mean return."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cls = AGENTS[case.agent]
    a = read_arguments(cls, case.flags(seed))
    training = make(case, a.env, a.num_envs, 1000 * seed)
    agent = cls(training.observation_space, training.action_space, a.agent, seed=seed)
    if case.spoil is not None:
        case.spoil(agent)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = to_json(cls, a, case.command(seed))
    write_bytes(partial / "config.json", json.dumps(config, indent=2).encode())
    evaluate = Evaluate(make(case, a.env, 5, 1000 * seed + 500), a.steps // 20, 5, 500)
    callbacks: list[Callback] = [Recorder(partial), evaluate]
    if case.callback is not None:
        callbacks.append(case.callback())
    try:
        train(agent, training, a.steps, callbacks)
    finally:
        training.close()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return evaluate.final.mean if evaluate.final is not None else math.nan


def kept(options: Options, case: Case, seed: int) -> KeptRun | None:
    """The case's run, where it is there as the case is now."""
    folder = folder_of(options, case, seed)
    if not folder.exists():
        return None
    run = read_run(folder)
    return run if run.config.get("command") == case.command(seed) else None


def history_of(options: Options, case: Case, seed: int) -> History | None:
    """What the case's run recorded; None where it is not there, as the case is now."""
    run = kept(options, case, seed)
    return run.history() if run is not None else None


def train_all(options: Options, runs: Sequence[tuple[Case, int]]) -> None:
    """Train what is not there yet of these cases and seeds."""
    todo = [run for run in dict.fromkeys(runs) if not kept(options, *run)]
    context = get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        running = {
            pool.submit(train_case, case, seed, folder_of(options, case, seed)): (case, seed)
            for case, seed in todo
        }
        for done, future in enumerate(as_completed(running), 1):
            case, seed = running[future]
            print(f"[{done}/{len(todo)}] {case.name}/{seed}: {future.result():.1f}", flush=True)


# ------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class Verdict:
    """What the doctor said of a run."""

    case: Case
    seed: int
    found: tuple[str, ...]
    """Names of the rules, the weightiest first."""

    @property
    def first(self) -> bool:
        """Whether it begins with what is right; of a healthy run, whether it says nothing."""
        return (
            self.found[0] in self.case.right
            if self.found and self.case.right
            else not (self.found or self.case.right)
        )

    @property
    def second(self) -> bool:
        """Whether what is right is among the first two."""
        return self.first or any(name in self.case.right for name in self.found[:2])


def judge(options: Options, cases: Sequence[Case], seeds: Sequence[int]) -> list[Verdict]:
    """Judge every run that is there by the rules as they are now."""
    verdicts = []
    for case in cases:
        for seed in seeds:
            run = history_of(options, case, seed)
            if run is not None:
                verdicts.append(Verdict(case, seed, tuple(f.rule.name for f in diagnose(run))))
    return verdicts


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: a row a case, and what it comes to."""
    lines = [
        "| case | right | found, by seed | first | in top 2 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in dict.fromkeys(verdict.case for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.case == case]
        said = "; ".join(f"{v.seed}: {', '.join(v.found[:3]) or 'healthy'}" for v in own)
        first, second = sum(v.first for v in own), sum(v.second for v in own)
        right = " or ".join(case.right) or HEALTHY
        lines.append(
            f"| {case.name} | {right} | {said} | {first}/{len(own)} | {second}/{len(own)} |"
        )
    ill = [verdict for verdict in verdicts if verdict.case.right]
    well = [verdict for verdict in verdicts if not verdict.case.right]
    lines.append("")
    if ill:
        first, second = sum(v.first for v in ill), sum(v.second for v in ill)
        lines.append(
            f"{len(ill)} runs with a fault, of {len({v.case.name for v in ill})} kinds and "
            f"{len({v.case.agent for v in ill})} agents: the right rule first in "
            f"{first / len(ill):.0%}, in the first two in {second / len(ill):.0%}."
        )
    if well:
        alarms = sum(not v.first for v in well)
        lines.append(f"{len(well)} healthy runs: {alarms} false alarms.")
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------- following


@dataclass(frozen=True)
class Course:
    """A run with a fault, and those after it in which the doctor's advice was followed."""

    seed: int
    cases: tuple[Case, ...]
    """The one with the fault, then one a round, each with one more change in its settings."""
    scores: tuple[float, ...] = ()
    """What `score` says of their runs; the last case's is missing until it was trained."""

    @property
    def due(self) -> bool:
        """Whether its last run is still to be judged."""
        return len(self.scores) < len(self.cases)

    def cured(self, rounds: int) -> bool:
        """Whether it was after so many rounds, at most."""
        return any(score >= REACHED for score in self.scores[1 : rounds + 1])

    @property
    def changes(self) -> list[str]:
        """What was changed in each round, as the flag that the doctor shows."""
        settings = [case.settings for case in self.cases]
        return [now.removeprefix(before).strip() for before, now in pairwise(settings)]


def score(run: History, healthy: History) -> float:
    """The share that a run gained of what the healthy one did; nan where that gained nothing.

    A gain is what the return rises by from that of an agent that has not learned, so that it means
    the same whatever the sign of returns: (final - untrained) / (healthy - untrained). The final
    return is the mean over the last fifth of the evaluations, of which one alone is a few episodes;
    the untrained one that of the healthy run's first episodes.
    """

    def final(history: History) -> float:
        returns = history.evaluated.values
        return float(np.mean(returns[-max(1, len(returns) // 5) :]))

    untrained = float(np.mean(healthy.untrained))
    gain = final(healthy) - untrained
    return (final(run) - untrained) / gain if gain > 0 else math.nan


def advanced(options: Options, course: Course) -> Course:
    """The course with its last run judged, if that is there, and with the next where one is due."""
    faulty, last = course.cases[0], course.cases[-1]
    run = history_of(options, last, course.seed)
    healthy = history_of(options, faulty.twin, course.seed)
    if not course.due or run is None or healthy is None:
        return course
    course = replace(course, scores=(*course.scores, score(run, healthy)))
    findings, number = diagnose(run), len(course.scores)
    change = findings[0].change if findings else None
    if change is None or number > ROUNDS or course.cured(ROUNDS):
        return course
    settings = f"{last.settings} {change.flag}"  # of a flag that is given twice the last one counts
    following = replace(faulty, name=f"{faulty.name}-round-{number}", settings=settings)
    return replace(course, cases=(*course.cases, following))


def follow(options: Options, cases: Sequence[Case], seeds: Sequence[int]) -> list[Course]:
    """Follow the doctor until a run is cured, nothing is left to follow, or for `ROUNDS` rounds."""
    courses = [Course(seed, (case,)) for case in cases for seed in seeds]
    if not options.judge:
        train_all(options, [(course.cases[0].twin, course.seed) for course in courses])
    for _ in range(ROUNDS + 1):
        if not options.judge:
            due = [course for course in courses if course.due]
            train_all(options, [(course.cases[-1], course.seed) for course in due])
        courses = [advanced(options, course) for course in courses]
    return [course for course in courses if course.scores]


def follow_table(courses: Sequence[Course]) -> str:
    """Markdown: a row a run, what was changed and what share of the healthy gain it led to."""
    rounds = " | ".join(f"round {number}" for number in range(1, ROUNDS + 1))
    lines = [
        f"| case | seed | as it was | {rounds} |",
        f"| --- | --- | --- |{' --- |' * ROUNDS}",
    ]
    for course in courses:
        first, *later = [f"{score:.0%}" for score in course.scores]
        cells = [f"`{flag}`: {share}" for flag, share in zip(course.changes, later, strict=False)]
        cells += [""] * (ROUNDS - len(cells))
        row = " | ".join([course.cases[0].name, str(course.seed), first, *cells])
        lines.append(f"| {row} |")
    lines.append("")
    judged = [course for course in courses if course.scores[0] < REACHED]  # nan is not
    if left := len(courses) - len(judged):
        lines.append(
            f"{left} runs are not counted: they learned as well with their fault, or without it "
            "nothing either."
        )
    if judged:
        once, often = (
            f"{sum(course.cured(rounds) for course in judged) / len(judged):.0%}"
            for rounds in (1, ROUNDS)
        )
        lines.append(
            f"{len(judged)} runs with a fault in their settings: by the doctor's first advice "
            f"{once} reach {REACHED:.0%} of what the healthy run gained, {often} within {ROUNDS} "
            "rounds of it."
        )
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------ the command line


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 2 with one line for bad input."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
            check_ranges(options, jobs=(1, math.inf))
            seeds = seed_list(options.seeds)
            able = [case for case in CASES if case.in_config or not options.follow]
            cases = [
                case
                for case in able
                if not options.cases or case.name.startswith(tuple(options.cases))
            ]
            if not cases:
                known = ", ".join(case.name for case in able)
                raise ValueError(f"--cases {' '.join(options.cases)}: there is {known}")
            nothing = f"{options.out} holds no run of these cases and seeds"
        if options.follow:
            courses = follow(options, cases, seeds)
            with bad_input():
                if not courses:
                    raise ValueError(f"{nothing}, and of each without its fault")
            name, text = "follow.md", follow_table(courses)
        else:
            if not options.judge:
                train_all(options, [(case, seed) for seed in seeds for case in cases])
            with bad_input():
                verdicts = judge(options, cases, seeds)
                if not verdicts:
                    raise ValueError(nothing)
            name, text = "doctor.md", table(verdicts)
        write_bytes(options.out / name, text.encode())
        print(text, end="")
        return 0

    return guarded("benchmark_doctor.py", run)


if __name__ == "__main__":
    sys.exit(main())
