"""The settings of a run: read from the command line, a preset or an earlier start of the run.

A setting is the command line's, else the preset's for the environment, else the default. With
`--resume` it is what the run began with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from agents.agent import Agent, usable
from agents.core.files import check_types, config_from_json, config_to_json, versions
from agents.core.manifest import verify_config
from agents.runner.arguments import (
    MAX_THREADS,
    BadInput,
    EnvOptions,
    check_ranges,
    parse,
    parse_known,
)
from agents.runner.evaluate import MAX_EPISODE_STEPS
from agents.runner.folder import folder_name
from agents.runner.presets import FOLDER, preset_envs, preset_for
from agents.runner.results import difference, read_run
from envs import Backend, spec

Config = TypeVar("Config")

EVAL_EVERY = 1_000
"""Steps between evaluations, by default, in runs so short that these would dominate them."""


@dataclass(frozen=True)
class Settings(Generic[Config]):
    """What a run is. config.json keeps all of it."""

    env: str
    """Gymnasium id of the environment, such as CartPole-v1; module:Id imports the module first."""
    steps: int
    """Steps to train for, counted over all environments."""
    agent: Config
    """Settings of the agent itself."""
    env_options: EnvOptions = field(default_factory=dict)
    """What the environment is made with beside its id, such as is_slippery=false gravity=-5; not
    with the backends vector and envpool."""
    seed: int = 0
    """Every random stream of the run follows from it."""
    num_envs: int = 8
    """Environments that are stepped side by side."""
    backend: Backend = "auto"
    """How they are stepped: one by one (loop), as arrays (vector), in EnvPool's threads (envpool),
    or as is fastest while a seed means what it did before there were arrays (auto); only Atari goes
    to EnvPool where it is installed, with other episodes from a seed and no exact resume."""
    eval_every: int | None = None
    """Steps between evaluations; 0: only at the end, None: 1/50 of the run, 1000 at least."""
    eval_episodes: int = 20
    """Episodes of each evaluation, played greedily on seeds of their own."""
    max_episode_steps: int = MAX_EPISODE_STEPS
    """Where an episode of an evaluation is cut off, should the task not end it."""
    target_return: float | None = None
    """End early once an evaluation's mean return reaches this."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next; 0: only at a best and the end, None: 10 in a run."""
    log_every: int = 64
    """Updates of a learner for each row of updates.csv, unless 1/200 of the run passes sooner."""
    nonfinite_limit: int = 10
    """Updates in a row that may be skipped, as not finite, before nonfinite_action; 0: any."""
    nonfinite_action: Literal["stop", "rollback"] = "stop"
    """stop: end the run, with exit code 3; rollback: back to the last checkpoint, at half the
    learning rate, three times at most."""
    threads: int | Literal["auto"] = 1
    """CPU threads of PyTorch; small networks are slower with more. auto: as many as a measurement
    finds fastest; config.json keeps how many these were. A copy of the agent plays until its first
    batch, on-policy a whole rollout, and learns from it for a second for each number of threads,
    but for half a minute at the most."""
    device: str = "cpu"
    """Where the networks are: cpu, cuda, ..."""


@dataclass(frozen=True)
class Arguments(Settings[Config]):
    """The settings, and how this start of the run is to go."""

    out: Path | None = None
    """Folder of the run; None: runs/<agent>-<env>-<seed>."""
    resume: bool = False
    """Go on with the run in the folder, or start it if there is none."""
    overwrite: bool = False
    """Replace the run in the folder."""
    preset: bool = True
    """Use the settings that were tuned for this environment, where there are any."""
    progress: bool = True
    """Show on stderr how the run is doing."""
    tensorboard: bool = False
    """Write the logs for TensorBoard too."""
    wandb: bool = False
    """Send the logs to Weights & Biases too; WANDB_MODE=offline keeps them on the disk."""
    trackio: bool = False
    """Write the logs into trackio's database too."""


@dataclass(frozen=True)
class _Start:
    """The arguments that decide where the others come from."""

    env: str = ""
    steps: str | None = None  # what is no number is told of later
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    preset: bool = True
    help: Annotated[bool, tyro.conf.arg(aliases=["-h"])] = False


def folder_of(agent: type[Agent], a: Arguments[Any] | _Start) -> Path:
    """The folder of the run."""
    return a.out or Path("runs") / folder_name(agent.name, a.env, a.seed)


def read_arguments(
    agent: type[Agent], argv: Sequence[str], presets: Path = FOLDER
) -> Arguments[Any]:
    """What the command line says, on top of what it leaves open.

    Raises ValueError for an unknown flag or field, a value that is impossible, and, with
    `--resume`, for a setting that is not the one the run began with.
    """
    start = parse_known(_Start, argv)
    default: Arguments[Any] = Arguments(tyro.MISSING, tyro.MISSING, agent.Config())
    begun = _begun(agent, folder_of(agent, start)) if start.resume else None
    preset = preset_for(agent, start.env, presets) if start.preset else None
    known = preset_envs(agent, presets)
    there_are = f"there are {', '.join(known)}" if known else "there are none"
    if begun is not None:
        default = replace(default, **{f.name: getattr(begun, f.name) for f in fields(Settings)})
    elif preset is not None:
        given = {f.name: getattr(preset, f.name) for f in fields(preset)}
        default = replace(default, **{name: v for name, v in given.items() if v is not None})
    elif not start.env and not start.help:
        alone = f"; --env alone does for {', '.join(known)}" if known else ""
        raise BadInput(f"--env is missing: give --env and --steps{alone}")
    elif start.steps is None and not start.help:
        spec(start.env)  # a mistyped one has no preset either
        why = f"{agent.name} has no preset for {start.env} ({there_are})"
        raise BadInput(f"--steps is missing: {why if start.preset else 'no preset is used'}")
    description = (
        f"Train {agent.__name__} in a Gymnasium environment. What is not given here is as in the "
        f"preset for --env ({there_are}), else the default; with --env, --help shows which."
    )
    arguments = _resolved(parse(Arguments[agent.Config], argv, default, description))  # type: ignore[name-defined]
    if begun is not None:
        if arguments.threads == "auto":  # what it was found to be when the run began
            arguments = replace(arguments, threads=begun.threads)
        _same(arguments, default, folder_of(agent, arguments))
    return arguments


def _resolved(a: Arguments[Any]) -> Arguments[Any]:
    """The arguments with every None that stands for a number replaced. Raises ValueError."""
    check_ranges(
        a,
        steps=(1, math.inf),
        seed=(0, math.inf),
        num_envs=(1, math.inf),
        eval_every=(0, math.inf),
        eval_episodes=(1, math.inf),
        max_episode_steps=(1, math.inf),
        checkpoint_every=(0, math.inf),
        log_every=(1, math.inf),
        nonfinite_limit=(0, math.inf),
    )
    if a.threads != "auto":
        check_ranges(a, threads=(1, MAX_THREADS))
    if a.target_return is not None and not math.isfinite(a.target_return):
        raise BadInput(f"--target-return is {a.target_return}: use a number")
    if a.resume and a.overwrite:
        raise BadInput("--resume goes on with a run and --overwrite replaces it: give one of them")
    for name in ("tensorboard", "wandb", "trackio"):
        if getattr(a, name) and find_spec(name) is None:
            raise BadInput(f"--{name} needs {name}: pip install 'chainrule[{name}]'")
    try:
        usable(a.device)
    except ValueError as error:
        raise BadInput(f"--{error}") from None
    eval_every, checkpoint_every = a.eval_every, a.checkpoint_every
    if eval_every is None:
        eval_every = min(a.steps, max(EVAL_EVERY, a.steps // 50))
        if a.target_return is not None:  # which ends a run at an evaluation before its last step
            eval_every = max(1, min(eval_every, a.steps // 10))
    elif a.target_return is not None and not (a.resume or 0 < eval_every < a.steps):
        raise BadInput(
            f"--target-return needs evaluations before the run's end: give an --eval-every of 1 to "
            f"{a.steps - 1}, or none"
        )
    if checkpoint_every is None:
        checkpoint_every = max(1, a.steps // 10)
    return replace(a, eval_every=eval_every, checkpoint_every=checkpoint_every)


def to_json(agent: type[Agent], a: Arguments[Any], command: str) -> dict[str, Any]:
    """The content of config.json."""
    settings = {f.name: getattr(a, f.name) for f in fields(Settings)}
    config = config_to_json(settings.pop("agent"))
    return {
        "agent": agent.name,
        **settings,
        "config": config,
        "versions": versions(),
        "command": command,
    }


def _begun(agent: type[Agent], folder: Path) -> Settings[Any] | None:
    """The settings in a run's config.json; None if it has not begun.

    Raises ValueError when it is damaged, or was changed since the run's last checkpoint.
    """
    path = folder / "config.json"
    if not path.exists():
        return None
    verify_config(folder)
    run = read_run(folder)
    if "command" not in run.config:
        raise BadInput(
            f"{folder} holds a run that no script began: go on with it from where it was begun, or "
            "choose another --out"
        )
    if run.agent != agent.name:
        raise BadInput(f"{folder} holds a run of {run.agent}, not of {agent.name}")
    try:
        given = {f.name: run.config[f.name] for f in fields(Settings) if f.name != "agent"}
        begun = Settings(**given, agent=config_from_json(agent.Config, run.config["config"]))
        check_types(begun)
        return begun
    except KeyError as error:
        raise BadInput(f"{path} is damaged: no {error} in it") from None
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}") from None


def _same(arguments: Arguments[Any], begun: Arguments[Any], folder: Path) -> None:
    """Raise ValueError for the first setting that is not as the run began with."""
    now, then = (
        {f.name: getattr(a, f.name) for f in fields(Settings)} | {"agent": config_to_json(a.agent)}
        for a in (arguments, begun)
    )
    if found := difference(now, then):
        name, *both = found
        value, before = ("not given" if x is None else x for x in both)
        flag, option = name.replace("_", "-"), name.removeprefix("env_options.")
        if option != name:  # an argument of the environment's, as it is called there
            flag = f"env-options {option}"
        raise BadInput(
            f"--{flag} is {value}, but the run in {folder} began with {before}: "
            "leave it so to resume, or choose another --out"
        )
