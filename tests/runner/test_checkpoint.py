"""A run that was killed goes on as if it never was, and damaged checkpoints are refused."""

import errno
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import gymnasium
import pytest
import torch

import envs
from agents import PPO
from agents.agent import AgentConfig
from agents.core import files
from agents.core.files import CheckpointError
from agents.core.manifest import agent_file, read_manifest
from agents.core.optimizers import OptimConfig
from agents.runner.callbacks import Evaluate
from agents.runner.checkpoint import Checkpoint
from agents.runner.guard import Guard
from agents.runner.recorder import Recorder
from agents.runner.registry import AGENTS, load
from agents.runner.results import read_run
from agents.runner.train import Callback, train
from envs.vector import VectorEnv
from tests.runner.fakes import (
    Tiny,
    TinyPrioritized,
    TinyReplay,
    assert_same_run,
    manifest_of,
    rows,
    weights,
)

STEPS = 320


def play(folder, cls=Tiny, also=(), steps=STEPS, every=64, seed=3, made=None, **settings):
    """Train a tiny agent in a folder, going on from the checkpoint there."""
    with made or envs.make("CartPole-v1", num_envs=4) as training:
        spaces = training.observation_space, training.action_space
        agent = cls(*spaces, AgentConfig(**settings), seed=seed)
        checkpoint = Checkpoint(folder, every)
        evaluate = Evaluate(envs.make("CartPole-v1", num_envs=2), 80, 2)
        callbacks = [Recorder(folder, 3), evaluate, *also, checkpoint]
        return train(agent, training, steps, callbacks, restore=checkpoint.restore)


class Stop(Callback):
    """Raises an exception, or interrupts the run, after some steps."""

    def __init__(self, at, error=None):
        self.at, self.error = at, error

    def stepped(self, run, transition):
        if run.agent.steps >= self.at:
            if self.error is not None:
                raise self.error
            run.stop("interrupted", interrupted=True)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cls", [Tiny, TinyReplay, TinyPrioritized])
@pytest.mark.parametrize("at", [4, 100, 128, 319, 320])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, cls, at):
    play(tmp_path / "whole", cls)
    with pytest.raises(Killed):
        play(tmp_path / "killed", cls, [Stop(at, Killed())])
    play(tmp_path / "killed", cls)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("cls", [Tiny, TinyReplay, TinyPrioritized])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path, cls):
    play(tmp_path / "whole", cls)
    for at in (30, 31, 200):  # at 31 again: no step since the one at 32
        run = play(tmp_path / "parts", cls, [Stop(at)])
        assert not run.finished
    assert manifest_of(tmp_path / "parts")["finished"] is False
    assert play(tmp_path / "parts", cls).finished
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_killed_at_any_file_operation_it_goes_on_bit_for_bit(tmp_path, monkeypatch):
    play(tmp_path / "whole", TinyReplay)
    operations = [
        (os, "replace"),
        (os, "rename"),
        (os, "fsync"),
        (shutil, "rmtree"),
        (Path, "unlink"),
        (Path, "mkdir"),
    ]

    def die_at(number):
        """Let the `number`-th operation on files, and with it the run, fail."""
        left = [number]
        for owner, name in operations:
            real = getattr(owner, name)

            def operation(*args, _real=real, **kwargs):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return _real(*args, **kwargs)

            monkeypatch.setattr(owner, name, operation)

    number, killed = 0, True
    while killed:
        number += 7
        folder = tmp_path / str(number)
        with monkeypatch.context() as monkeypatch:
            die_at(number)
            try:
                play(folder, TinyReplay)
                killed = False
            except Killed:
                pass
        play(folder, TinyReplay)
        assert_same_run(tmp_path / "whole", folder)
        shutil.rmtree(folder)
    assert number > 100


def test_a_disk_too_full_to_name_the_first_checkpoint_loses_nothing(tmp_path, monkeypatch):
    play(tmp_path / "whole", TinyReplay)

    def full(path, data):
        if path.name == "LATEST":
            raise OSError(errno.ENOSPC, "No space left on device")
        files.write_bytes(path, data)

    with monkeypatch.context() as patched:
        patched.setattr("agents.runner.checkpoint.write_bytes", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                play(tmp_path / "full", TinyReplay)
    play(tmp_path / "full", TinyReplay)
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_the_last_and_the_best_are_kept_and_nothing_else(tmp_path):
    run = play(tmp_path, TinyReplay)
    manifest = manifest_of(tmp_path)
    assert manifest["finished"]
    assert manifest["step"] == run.agent.steps == STEPS
    folder = tmp_path / "checkpoints"
    kept = {manifest["name"], manifest["best"]["name"], "LATEST", "replay"}
    assert {path.name for path in folder.iterdir()} == kept
    segments = [(s["start"], s["stop"]) for s in manifest["replay"]]
    assert {path.name for path in (folder / "replay").iterdir()} == {
        f"{start}-{stop}.safetensors" for start, stop in segments
    }
    assert segments[0][0] <= STEPS - 100  # the ring holds 100
    assert segments[0][1] > STEPS - 100
    assert all(a[1] == b[0] for a, b in itertools.pairwise(segments))
    assert agent_file(tmp_path).parent.name == manifest["name"]
    assert agent_file(tmp_path, best=True).parent.name == manifest["best"]["name"]


def test_the_best_is_that_of_the_highest_evaluation(tmp_path):
    play(tmp_path, steps=640)
    with open(tmp_path / "evaluations.csv") as file:
        means: dict[float, int] = {}
        for line in file.readlines()[1:]:
            step, _, mean, *_ = line.split(",")
            means.setdefault(float(mean), int(step))
    best = manifest_of(tmp_path)["best"]
    assert best == {"name": str(means[max(means)]), "mean_return": max(means)}


def test_a_checkpoint_that_is_not_last_is_an_error(tmp_path):
    with envs.make("CartPole-v1", num_envs=1) as training:
        agent = Tiny(training.observation_space, training.action_space)
        with pytest.raises(ValueError, match="last callback"):
            train(agent, training, 10, [Checkpoint(tmp_path), Recorder(tmp_path)])


class Nameless(Tiny):
    """Called as its parent is."""


@pytest.mark.parametrize("kind", [Checkpoint, Guard])
def test_a_class_without_a_name_of_its_own_is_not_saved_as_its_parent(tmp_path, kind):
    with envs.make("CartPole-v1", num_envs=1) as training:
        agent = Nameless(training.observation_space, training.action_space)
        with pytest.raises(ValueError, match=r"Nameless has no name of its own .* loaded as tiny"):
            train(agent, training, 10, [kind(tmp_path)])
        with pytest.raises(ValueError, match="give it one, as in name = 'nameless'"):
            agent.save(tmp_path / "agent.safetensors")
    assert list(tmp_path.iterdir()) == []


class Copied(PPO):
    """Called as an agent of ours is."""

    name = "ppo"


@pytest.mark.parametrize("kind", [Checkpoint, Guard])
def test_a_class_with_the_name_of_another_is_not_saved_as_that(tmp_path, kind, monkeypatch):
    with envs.make("CartPole-v1", num_envs=1) as training:
        agent = Copied(training.observation_space, training.action_space)
        with pytest.raises(ValueError, match=r"^Copied has the name 'ppo' .* loaded as that: give"):
            train(agent, training, 10, [kind(tmp_path)])
        monkeypatch.setitem(AGENTS, "ppo", Copied)
        train(agent, training, 10, [kind(tmp_path)])


@pytest.mark.parametrize("kind", [Checkpoint, Recorder])
def test_what_serves_one_agent_does_not_mix_another_into_its_folder(tmp_path, kind):
    with envs.make("CartPole-v1", num_envs=1) as training:
        spaces = training.observation_space, training.action_space
        first, second = Tiny(*spaces), Tiny(*spaces, seed=1)
        callback = kind(tmp_path)
        train(first, training, 100, [callback])
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=rf"this {kind.__name__} has another agent's .* a new"):
            train(second, training, 100, [callback])
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        train(first, training, 200, [callback])


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        (1, {}, "seed is 1, but the run in .* began with 0"),
        (0, {"gamma": 0.5}, r"config\.gamma is 0\.5, but the run in .* began with 0\.99"),
    ],
)
def test_without_a_recorder_too_another_run_does_not_go_on(tmp_path, seed, options, message):
    with envs.make("CartPole-v1", num_envs=1) as training:
        spaces = training.observation_space, training.action_space
        train(Tiny(*spaces), training, 32, [Checkpoint(tmp_path)])
        checkpoint = Checkpoint(tmp_path)
        agent = Tiny(*spaces, AgentConfig(**options), seed)
        with pytest.raises(CheckpointError, match=message):
            train(agent, training, 64, [checkpoint], restore=checkpoint.restore)
        again = Tiny(*spaces)
        run = train(again, training, 64, [checkpoint], restore=checkpoint.restore)
        assert run.agent.steps == 64


def test_an_agent_of_ones_own_is_loaded_by_its_class(tmp_path):
    run = play(tmp_path)
    loaded = Tiny.from_file(tmp_path)
    assert loaded.steps == run.agent.steps
    assert torch.equal(weights(loaded), weights(run.agent))
    for path in (tmp_path, agent_file(tmp_path)):
        with pytest.raises(CheckpointError, match="agent of your own, 'tiny': load it by its clas"):
            load(path)


@pytest.mark.parametrize("which", [slice(0, 2), slice(1, 2)])  # Recorder and Checkpoint, or one
def test_a_run_that_is_not_restored_spares_what_is_in_the_folder(interrupted, which):
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    with envs.make("CartPole-v1", num_envs=4) as training:
        agent = TinyReplay(training.observation_space, training.action_space)
        callbacks = [Recorder(interrupted), Checkpoint(interrupted)][which]
        with pytest.raises(ValueError, match=r"another run, .* go on with that one by restore"):
            train(agent, training, 300, callbacks)
    assert before == {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}


def test_a_folder_that_another_run_writes_to_is_left_alone(tmp_path):
    class Beside(Callback):
        """Begins another run in the same folder, as another process may."""

        def updated(self, run, metrics):
            with pytest.raises(ValueError, match="checkpoints is in use by another run"):
                save(seed=1)

    def save(*beside, seed=0):
        with envs.make("CartPole-v1", num_envs=1) as training:
            agent = Tiny(training.observation_space, training.action_space, seed=seed)
            train(agent, training, 32, [*beside, Checkpoint(tmp_path)])

    save(Beside())
    assert Tiny.from_file(tmp_path).seed == 0


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a run that was interrupted at step 200."""
    play(tmp_path, TinyReplay, [Stop(200)])
    return tmp_path


PIECES = ("agent.safetensors", "training.safetensors", "manifest.json", "replay")


def piece_of(folder, name):
    checkpoint = folder / "checkpoints"
    if name == "replay":
        return min((checkpoint / "replay").iterdir())
    return checkpoint / (checkpoint / "LATEST").read_text().split()[0] / name


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("damage", ["truncated", "missing", "tampered"])
def test_a_damaged_piece_is_refused(interrupted, name, damage):
    path = piece_of(interrupted, name)
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "tampered":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    logs = {p.name: p.read_bytes() for p in interrupted.glob("*.csv")}
    with pytest.raises(CheckpointError) as error:
        play(interrupted, TinyReplay)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)
    assert logs == {p.name: p.read_bytes() for p in interrupted.glob("*.csv")}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"200", b"200 0 0", b"../.. 0"])
def test_a_damaged_name_of_the_last_checkpoint_is_refused(interrupted, content):
    (interrupted / "checkpoints" / "LATEST").write_bytes(content)
    for use in (lambda: play(interrupted, TinyReplay), lambda: agent_file(interrupted)):
        with pytest.raises(CheckpointError, match=r"LATEST is damaged|manifest.json"):
            use()


@pytest.mark.parametrize(("by", "message"), [(1, "upgrade"), (-1, "the chainrule that wrote it")])
def test_another_format_is_refused(interrupted, by, message):
    path = piece_of(interrupted, "manifest.json")
    text = json.dumps(json.loads(path.read_text()) | {"format": files.FORMAT + by})
    path.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path.parents[1] / "LATEST").write_text(f"{path.parent.name} {digest}\n")
    with pytest.raises(CheckpointError, match=message):
        play(interrupted, TinyReplay)


def test_a_log_that_was_cut_is_refused(interrupted):
    (interrupted / "updates.csv").write_text("step\n")
    with pytest.raises(CheckpointError, match=r"updates\.csv is shorter"):
        play(interrupted, TinyReplay)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"cls": Tiny}, "agent is tiny, but .* began with tiny_replay"),
        ({"seed": 4}, "seed is 4, but .* began with 3"),
        ({"gamma": 0.5}, r"config\.gamma is 0\.5, but .* began with 0\.99"),
        ({"optim": OptimConfig(lr=1.0)}, r"config\.optim\.lr is 1\.0, but .* began with"),
        ({"made": lambda: envs.make("CartPole-v1", 8)}, "num_envs is 8, but .* began with 4"),
        ({"made": lambda: envs.make("CartPole-v0", 4)}, "env is CartPole-v0, but .*CartPole-v1"),
        (
            {"made": lambda: envs.make("CartPole-v1", 4, max_episode_steps=9)},
            r"env_options\.max_episode_steps is 9, but .* began with None",
        ),
        (
            {"made": lambda: VectorEnv([cut() for _ in range(4)])},
            "env_options is None, but .* began with {}",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date:DeprecationWarning")
def test_another_run_is_refused_and_named(interrupted, other, said):
    config = (interrupted / "config.json").read_bytes()
    made = other["made"]() if "made" in other else None
    with pytest.raises(CheckpointError, match=said):
        play(interrupted, **{"cls": TinyReplay, **other, "made": made})
    assert (interrupted / "config.json").read_bytes() == config


def cut():
    """CartPole as a program may have changed it."""
    return gymnasium.make("CartPole-v1", max_episode_steps=9)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: envs.make("CartPole-v1", 3), "the state is of 4 environments, these are 3"),
        (
            lambda: envs.make("CartPole-v1", 4, backend="vector"),
            "stepped as a loop, these are one vector environment",
        ),
    ],
)
def test_without_a_config_other_environments_are_refused_too(interrupted, made, said):
    (interrupted / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"does not fit this run: .*{said}"):
        play(interrupted, TinyReplay, made=made())


def test_a_run_whose_steps_are_done_goes_on_if_it_is_to_take_more(tmp_path):
    linear = OptimConfig(schedule="linear")
    play(tmp_path, steps=320, optim=linear)
    run = play(tmp_path, steps=640, optim=linear)
    assert (run.agent.steps, run.stopped) == (640, "")
    assert read_run(tmp_path).steps == 640
    lr = [float(row["lr"]) for row in rows(tmp_path / "updates.csv")]
    assert max(lr[len(lr) // 2 :]) > 0.4 * linear.lr  # planned for 640, not at its end since 320
    assert lr[-1] == 0.0


def test_an_interruption_in_the_last_step_ends_nothing(tmp_path):
    class LastStep(Callback):
        def stepped(self, run, transition):
            if run.agent.steps >= 64:
                run.stop("interrupted", interrupted=True)

    play(tmp_path, steps=64, also=[LastStep()])
    run = play(tmp_path, steps=128)
    assert (run.agent.steps, run.stopped) == (128, "")


def test_a_run_that_is_as_far_already_or_was_stopped_is_left_as_it_is(tmp_path):
    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    class Enough(Callback):
        def stepped(self, run, transition):
            if run.agent.steps >= 100:
                run.stop("enough")

    play(tmp_path, also=[Enough()])
    before = files()
    for steps in (64, 100, 1000):
        run = play(tmp_path, steps=steps)
        assert (run.agent.steps, run.stopped, run.finished) == (100, "enough", True)
    assert files() == before


def test_a_folder_without_a_checkpoint_says_so(tmp_path):
    assert read_manifest(tmp_path) is None
    with pytest.raises(CheckpointError, match="not a run's folder"):
        agent_file(tmp_path)
