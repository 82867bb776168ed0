"""A tiny agent, environments that do as they are told, a reader that goes away, and how two runs'
folders are compared."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from agents.agent import Agent, AgentConfig
from agents.core.files import join_state, read_arrays
from agents.core.manifest import read_manifest
from agents.memory import Replay, Rollout


def unread(code: str, pipe: Literal["stdout", "stderr"]) -> tuple[str, str, int]:
    """A program of which one line is read from `pipe`, and no further.

    Returns that line, all of what it wrote to the other pipe, and what it ended with.
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        pipes = {"stdout": process.stdout, "stderr": process.stderr}
        left, read = pipes.pop(pipe), pipes.popitem()[1]
        assert left is not None
        assert read is not None
        line = left.readline()
        left.close()
        return line, read.read(), process.wait()


class Tiny(Agent):
    """Regresses the reward on the observation, on short rollouts; acts at random."""

    name = "tiny"
    Config = AgentConfig

    def build(self):
        self.learner = self.new_learner("tiny", network=self.new_network({"value": "scalar"}))
        self.network = self.learner.modules["network"]
        self.memory = Rollout(16, device=self.device)

    def choose(self, obs, explore, rng):
        count = self.discrete_actions()
        return rng.integers(count, size=len(obs)) if explore else np.zeros(len(obs), np.int64)

    def update(self, batch):
        self.learner.minimize(self.loss, batch.obs, batch.reward)
        return {"mean_reward": float(batch.reward.mean())}

    def loss(self, obs, reward):
        error = self.network(obs)["value"] - reward
        return {"error": error.square().mean()}, {"bias": error.mean().detach()}


class TinyReplay(Tiny):
    """The same from a replay."""

    name = "tiny_replay"

    def build(self):
        super().build()
        self.memory = Replay(100, 8, 0.25, 20, self.rng, obs_size=4)


class TinyPrioritized(Tiny):
    """The same from a replay that looks ahead and learns from the worst more often."""

    name = "tiny_prioritized"

    def build(self):
        super().build()
        self.memory = Replay(
            100, 8, 0.25, 20, self.rng, obs_size=4, n_step=3, priority_exponent=0.5
        )

    def update(self, batch):
        assert isinstance(self.memory, Replay)
        step = self.learner.minimize(self.loss, batch.obs, batch.reward)
        self.memory.reprioritize(batch.extras["index"], batch.reward - step.scalars["bias"])
        return {"mean_reward": float(batch.reward.mean())}


class Scripted(gymnasium.Env[Any, Any]):
    """Episodes of one length each, reward 1 a step. The observation counts the steps."""

    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (1,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length
        self.at = 0

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.full(1, self.at, np.float32), 1.0, self.at >= self.length, False, {}


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file without its wall-clock column."""
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row.pop("seconds", None)
    return table


def training_state(folder: Path) -> dict[str, Any]:
    """The state in a run's last checkpoint as comparable values, wall-clock aside."""
    last = folder / "checkpoints" / (folder / "checkpoints" / "LATEST").read_text().split()[0]
    arrays, header = read_arrays(last / "training.safetensors")
    comparable: Any = {k: (v.dtype.str, v.shape, v.tobytes()) for k, v in arrays.items()}
    state = join_state(comparable, header)
    recorder = state["state"]["callbacks"].get("Recorder", {})
    recorder.pop("seconds", None)
    for table in recorder.get("tables", {}).values():
        table["offset"] = None  # of a file with a wall-clock column
    manifest = manifest_of(folder)
    weights = {k: v.tobytes() for k, v in read_arrays(last / "agent.safetensors")[0].items()}
    return {
        "state": state,
        "weights": weights,
        "best": {key: manifest["best"][key] for key in ("name", "mean_return")},
        "finished": manifest["finished"],
        "rows": replay_rows(folder, manifest),
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    """What the last checkpoint says of itself."""
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def replay_rows(folder: Path, manifest: dict[str, Any]) -> dict[int, bytes]:
    """Each row of a replay that the segments hold, by its number."""
    found = {}
    for segment in manifest["replay"]:
        columns = read_arrays(folder / "checkpoints" / "replay" / segment["file"])[0]
        for i, number in enumerate(range(segment["start"], segment["stop"])):
            row = b"".join(columns[name][i].tobytes() for name in sorted(columns))
            found[number] = row
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, memory, state and log rows equal bit for bit."""
    for name in ("episodes", "updates", "gradients", "evaluations"):
        assert rows(one / f"{name}.csv") == rows(other / f"{name}.csv"), name
    a, b = training_state(one), training_state(other)
    # How far segments reach back behind the ring depends on when checkpoints were written.
    ours, theirs = a.pop("rows"), b.pop("rows")
    assert max(ours, default=0) == max(theirs, default=0)
    assert all(ours[number] == theirs[number] for number in ours.keys() & theirs.keys())
    for key in a:
        assert a[key] == b[key], key


def weights(agent: Agent) -> torch.Tensor:
    """All weights of an agent."""
    return torch.cat([learner.flat.vector for learner in agent.learners.values()])
