"""Evaluates a trained agent, from its run's folder or a file that it was saved to.

python scripts/evaluate.py runs/ppo-CartPole-v1-0 --best
python scripts/evaluate.py ppo.safetensors --env CartPole-v1 --video cartpole.mp4
"""

from __future__ import annotations

import sys

try:
    import contextlib
    import math
    import os
    import shutil
    import tempfile
    from collections.abc import Sequence
    from dataclasses import dataclass, field
    from pathlib import Path
    from typing import Any

    import gymnasium
    import numpy as np
    import tyro

    import envs  # (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents import load
    from agents.agent import Agent
    from agents.core.manifest import agent_file
    from agents.runner.arguments import (
        BadInput,
        EnvOptions,
        bad_input,
        check_ranges,
        guarded,
        parse,
    )
    from agents.runner.evaluate import MAX_EPISODE_STEPS, evaluate
    from agents.runner.results import read_run
    from envs.vector import VectorEnv
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)


@dataclass(frozen=True)
class Arguments:
    """Evaluate a trained agent."""

    path: tyro.conf.Positional[Path]
    """A run's folder, or a file that an agent was saved to."""
    env: str | None = None
    """Gymnasium id of the environment, as it is made by default; None: the one of the run."""
    env_options: EnvOptions = field(default_factory=dict)
    """What it is made with beside its id, such as gravity=-5.0; over what the run's was made
    with."""
    episodes: int = 20
    """Episodes to play greedily."""
    seed: int = 0
    """The first episode begins from this seed, the next from the one after it."""
    max_episode_steps: int = MAX_EPISODE_STEPS
    """Where an episode is cut off, should the task not end it."""
    best: bool = False
    """Take the best agent by evaluation, not the last, of the run's folder."""
    video: Path | None = None
    """Record the first episode to this file, such as episode.mp4."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says. Returns the exit code."""

    def run() -> int:
        with bad_input():
            a = parse(Arguments, sys.argv[1:] if argv is None else argv)
            _check(a)
            env, options = _task(a)
            agent = load(agent_file(a.path, a.best))
            if a.video is not None:
                _record(agent, env, options, a, a.video)
            count = min(a.episodes, 20)
            with envs.make(env, num_envs=count, **options) as tasks:
                print(evaluate(agent, tasks, a.episodes, a.seed, a.max_episode_steps))
        return 0

    return guarded("evaluate.py", run)


def _check(a: Arguments) -> None:
    """Raise BadInput for what cannot be done, before anything is."""
    check_ranges(a, episodes=(1, math.inf), seed=(0, math.inf), max_episode_steps=(1, math.inf))
    if not a.path.exists():
        raise BadInput(
            f"{a.path} does not exist: give a run's folder, or a file that an agent was saved to"
        )
    if not a.path.is_dir():
        if a.best:
            raise BadInput(f"--best chooses in a run's folder: {a.path} is none")
        if a.env is None:
            raise BadInput(f"{a.path} does not say which environment it is for: give --env")
    if a.video is not None:
        if a.video.suffix != ".mp4" or a.video.is_dir():
            raise BadInput(f"--video is {a.video}: give the name of an .mp4 file")
        if not a.video.parent.is_dir():
            raise BadInput(f"--video is {a.video}: there is no folder {a.video.parent}")


def _task(a: Arguments) -> tuple[str, dict[str, Any]]:
    """The id of the environment to evaluate the agent in, and what it is to be made with.

    Raises BadInput where it is the run's, which only another program can make.
    """
    if a.env is not None:
        return a.env, a.env_options
    run = read_run(a.path)
    try:
        return run.env, run.env_options | a.env_options
    except ValueError as error:
        raise BadInput(f"{error}: give --env") from None


def _record(agent: Agent, env: str, options: dict[str, Any], a: Arguments, video: Path) -> None:
    """Write a video of the first episode.

    Raises BadInput when an extra is missing or the environment draws no picture.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    with tempfile.TemporaryDirectory() as folder:
        try:
            task = _drawn(env, options)  # what is missing shows before the recorder has begun
            task = gymnasium.wrappers.RecordVideo(
                task,
                f"{folder}/video",
                episode_trigger=lambda episode: episode == 0,
                disable_logger=True,
            )
            with VectorEnv(task) as tasks:
                evaluate(agent, tasks, 1, a.seed, a.max_episode_steps)
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            raise BadInput(envs.missing_package("--video", error)) from None
        shutil.move(next(Path(folder).glob("video/*.mp4")), video)


def _drawn(env: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """An environment that draws pictures of itself. Raises BadInput where there are none."""
    with envs.make_one(env, **options) as plain:
        draws = "rgb_array" in plain.metadata.get("render_modes", ())
    if draws:
        task = envs.make_one(env, render_mode="rgb_array", **options)
        task.reset()
        with contextlib.suppress(NotImplementedError):
            if isinstance(task.render(), np.ndarray):
                return task
    raise BadInput(f"--video needs pictures, and {env} draws none: leave --video out")


if __name__ == "__main__":
    sys.exit(main())
