"""The command line of the training scripts: `main(PPO)` trains in a folder of its own.

Exit codes: 0 when the run is finished, 2 with one line on stderr for bad input, which leaves
nothing behind, and 130 after Ctrl-C, with a checkpoint to go on from.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import envs
from agents.agent import Agent
from agents.core.files import CheckpointError, write_bytes
from agents.runner.arguments import BadInput, bad_input
from agents.runner.callbacks import Evaluate, Interrupt, TensorBoard
from agents.runner.checkpoint import Checkpoint, read_manifest
from agents.runner.presets import FOLDER
from agents.runner.progress import Progress
from agents.runner.recorder import Recorder
from agents.runner.settings import (
    Arguments,
    folder_of,
    read_arguments,
    to_json,
)
from agents.runner.train import Callback, train

BAD_INPUT, INTERRUPTED = 2, 130
FILES = ("config.json", "episodes.csv", "updates.csv", "gradients.csv", "evaluations.csv")
FOLDERS = ("checkpoints", "tensorboard")


def main(agent: type[Agent], argv: Sequence[str] | None = None, presets: Path = FOLDER) -> int:
    """Train an agent as the command line says. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        with bad_input():
            arguments = read_arguments(agent, argv, presets)
            folder = folder_of(agent, arguments)
            manifest = read_manifest(folder) if arguments.resume else None
        if manifest is not None and manifest["finished"]:
            print(f"the run in {folder} is finished: there is nothing to do", file=sys.stderr)
            print(manifest["evaluation"])
            return 0
        return _train(agent, arguments, folder, argv)
    except BadInput as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def _train(cls: type[Agent], a: Arguments[Any], folder: Path, argv: Sequence[str]) -> int:
    command = ["python", sys.argv[0], *(word for word in argv if word != "--overwrite")]
    with bad_input():
        torch.set_num_threads(a.threads)
        torch.set_flush_denormal(True)  # Adam's moments of silent units; they would slow it a lot
        training = envs.make(a.env, num_envs=a.num_envs)
        evaluated = envs.make(a.env, num_envs=min(a.eval_episodes, 20))
        spaces = training.observation_space, training.action_space
        agent = cls(*spaces, a.agent, seed=a.seed, device=a.device)
        _make_folder(folder, a, to_json(cls, a, shlex.join(command)))

    tensorboard = TensorBoard(folder / "tensorboard") if a.tensorboard else None
    evaluate = Evaluate(
        evaluated, a.eval_every or 0, a.eval_episodes, a.max_episode_steps, a.target_return
    )
    checkpoint = Checkpoint(folder, a.checkpoint_every or 0)
    callbacks: list[Callback | None] = [
        Recorder(folder, a.log_every, tensorboard.show if tensorboard else None),
        evaluate,
        tensorboard,
        Progress() if a.progress else None,
        Interrupt(),
        checkpoint,
    ]
    try:
        wanted = [callback for callback in callbacks if callback is not None]
        run = train(agent, training, a.steps, wanted, restore=checkpoint.restore)
    except CheckpointError as error:
        raise BadInput(str(error)) from None
    finally:
        training.close()
    if not run.finished:
        resume = command if a.resume else [*command, "--resume"]
        print(f"interrupted at step {agent.steps}, to go on:", file=sys.stderr)
        print(f"  {shlex.join(resume)}", file=sys.stderr)
        return INTERRUPTED
    print(evaluate.final)
    return 0


def _make_folder(folder: Path, a: Arguments[Any], config: dict[str, Any]) -> None:
    """Make the run's folder ready and write config.json. Raises ValueError or OSError."""
    if a.resume and (folder / "config.json").exists():
        return
    if folder.is_dir() and any(folder.iterdir()) and not (a.overwrite or a.resume):
        raise BadInput(
            f"{folder} is not empty: give --resume to go on with the run in it, --overwrite to "
            "replace it, or another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # only what a run writes: the folder may hold more than a run
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    write_bytes(folder / "config.json", json.dumps(config, indent=2).encode())
