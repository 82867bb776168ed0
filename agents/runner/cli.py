"""The command line of the training scripts: `main(PPO)` trains in a folder of its own.

Exit codes: 0 when the run is finished, 2 with one line on stderr for bad input, which leaves
nothing behind unless only the first steps show it, and for a file that cannot be written, as on a
full disk, 3 when it was stopped because its updates were not finite, and 130 after Ctrl-C, the last
three with a checkpoint to go on from.
"""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import envs
from agents.agent import Agent
from agents.core.files import CheckpointError
from agents.core.manifest import read_manifest
from agents.memory import NoStacks
from agents.runner.arguments import GAVE_UP, INTERRUPTED, BadInput, bad_input, guarded
from agents.runner.callbacks import Evaluate, Interrupt
from agents.runner.checkpoint import Checkpoint
from agents.runner.folder import begin, claimed
from agents.runner.guard import Guard
from agents.runner.health import Health
from agents.runner.mirrors import TensorBoard, Trackio, Wandb, together
from agents.runner.presets import FOLDER, preset_for
from agents.runner.progress import Progress
from agents.runner.recorder import Recorder
from agents.runner.settings import Arguments, folder_of, read_arguments, to_json
from agents.runner.threads import choose_threads, early
from agents.runner.train import Callback, introduce, train
from envs.vector import VectorEnv

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk, or a share of it, on which there is no room left."""
PROJECT = "chainrule"
"""Under which Weights & Biases and trackio keep the runs."""


def main(agent: type[Agent], argv: Sequence[str] | None = None, presets: Path = FOLDER) -> int:
    """Train an agent as the command line says. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return guarded(Path(sys.argv[0]).name, lambda: _start(agent, argv, presets))


def build(cls: type[Agent], a: Arguments[Any]) -> tuple[VectorEnv, Agent]:
    """The environments of a run and its agent. Raises BadInput where they cannot be made."""
    with bad_input(RuntimeError):  # of torch, for what does not fit into memory
        training = envs.make(a.env, a.num_envs, backend=a.backend, **a.env_options)
        spaces = training.observation_space, training.action_space
        agent = cls(*spaces, a.agent, seed=a.seed, device=a.device)
        introduce(agent, training)
        return training, agent


def _start(cls: type[Agent], argv: Sequence[str], presets: Path) -> int:
    command = ["python", sys.argv[0], *(word for word in argv if word != "--overwrite")]
    with bad_input():
        a = read_arguments(cls, argv, presets)
        preset = a.preset and preset_for(cls, a.env, presets) is not None
    folder = folder_of(cls, a)
    with claimed(folder):
        resuming = a.resume and (folder / "config.json").exists()
        with bad_input():
            manifest = read_manifest(folder) if resuming else None
        if manifest is not None and manifest["finished"]:
            print(f"the run in {folder} is finished: there is nothing to do", file=sys.stderr)
            print(manifest["evaluation"])
            return 0
        torch.set_flush_denormal(True)  # Adam's moments of silent units; they would slow it a lot
        if a.threads == "auto":
            copy = replace(a, agent=early(a.agent))
            a = replace(a, threads=choose_threads(lambda: build(cls, copy)))
            print(f"threads: {a.threads}, by measurement", file=sys.stderr)
        torch.set_num_threads(int(a.threads))
        training, agent = build(cls, a)
        config = to_json(cls, a, shlex.join(command))
        if resuming:
            way = "as it was begun"
        else:
            way = "with the preset for it" if preset else "without a preset"
            with bad_input():
                begin(folder, config, a.overwrite)
        heading = f"training {cls.name} in {a.env} {way}, in the folder {folder}"
        return _train(agent, training, a, folder, heading, command, config)


def _train(
    agent: Agent,
    training: VectorEnv,
    a: Arguments[Any],
    folder: Path,
    heading: str,
    command: list[str],
    config: dict[str, Any],
) -> int:
    health = Health(folder) if a.progress else None
    progress = Progress(heading=heading, health=health) if a.progress else None
    mirrors: list[TensorBoard | Wandb | Trackio] = []
    with bad_input():
        if a.tensorboard:
            mirrors.append(TensorBoard(folder / "tensorboard"))
        if a.wandb:
            mirrors.append(Wandb(folder, PROJECT, config))
        if a.trackio:
            mirrors.append(Trackio(folder, PROJECT, config))
    evaluate = Evaluate(
        envs.make(a.env, num_envs=min(a.eval_episodes, 20), **a.env_options),
        a.eval_every or 0,
        a.eval_episodes,
        a.max_episode_steps,
        a.target_return,
    )
    checkpoint = Checkpoint(folder, a.checkpoint_every or 0)
    guard = Guard(folder, a.nonfinite_limit, a.nonfinite_action, checkpoint)
    callbacks: list[Callback | None] = [
        *mirrors,
        Recorder(folder, a.log_every, together([mirror.show for mirror in mirrors])),
        evaluate,
        health,
        progress,
        Interrupt(),
        guard,
        checkpoint,
    ]
    try:
        wanted = [callback for callback in callbacks if callback is not None]
        run = train(agent, training, a.steps, wanted, restore=checkpoint.restore)
    except (CheckpointError, NoStacks) as error:
        raise BadInput(str(error)) from None
    except BrokenPipeError:
        raise  # nobody reads what is shown any more
    except OSError as error:
        cure = "free space" if error.errno in FULL else "put that right"
        raise BadInput(
            f"{error.filename or folder}: {error.strerror or error}: {cure}, then go on with "
            "--resume; the last checkpoint is whole"
        ) from None
    finally:
        training.close()
    if guard.gave_up:
        for line in health.lines() if health is not None else ():
            print(line, file=sys.stderr)
        print(f"stopped at step {agent.steps}: {guard.gave_up}", file=sys.stderr)
        return GAVE_UP
    if not run.finished:
        resume = command if a.resume else [*command, "--resume"]
        print(f"interrupted at step {agent.steps}, to go on:", file=sys.stderr)
        print(f"  {shlex.join(resume)}", file=sys.stderr)
        return INTERRUPTED
    if idle := [learner for learner in agent.learners.values() if not learner.updates]:
        skipped = sum(learner.skipped for learner in idle)
        print(
            f"warning: no update was made by {', '.join(learner.name for learner in idle)}: "
            + (f"all {skipped} were skipped, as not finite" if skipped else "none fell due")
            + f" in {agent.steps} steps",
            file=sys.stderr,
        )
    if health is not None:
        for line in health.lines():
            print(line, file=sys.stderr)
    if progress is not None:
        print(f"what was recorded is in {folder}", file=sys.stderr)
    print(evaluate.final)
    return 0
