"""A seed decides every bit of a run: repeated, watched, interrupted or killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from agents import Callback, train
from agents.runner import cli
from agents.runner.callbacks import Evaluate
from agents.runner.checkpoint import Checkpoint
from agents.runner.recorder import Recorder
from tests.contract.support import bits, chooses, small, task, updates, weights
from tests.runner.fakes import assert_same_run, rows

SCRIPTS = Path(__file__).parents[2] / "scripts"
NORMALIZED = {"normalize_obs": True, "normalize_reward": True, "network": {"dropout": 0.1}}


def trained(cls, seed, callbacks=(), steps=1200, **settings):
    with envs.make(task(cls), num_envs=4) as tasks:
        agent = small(cls, tasks, seed, **NORMALIZED, **settings)
        train(agent, tasks, steps, callbacks)
    assert updates(agent) >= 4
    return agent


def test_a_seed_gives_the_same_bits_and_another_seed_others(cls):
    first, again, other = (bits(trained(cls, seed).state_dict()) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    vectors = [name for name in first[0] if name.endswith("/vector")]
    assert all(first[0][name] != other[0][name] for name in vectors)


def test_watching_changes_no_weight(cls, tmp_path):
    """Evaluation, logs, checkpoints and statistics, all of them or none."""
    watching = [
        Recorder(tmp_path, log_every=1),
        Evaluate(envs.make(task(cls), num_envs=3), every=48, episodes=4),
        Checkpoint(tmp_path, every=80),
    ]
    watched = trained(cls, 5, watching, optim={"stats_every": 1})
    alone = trained(cls, 5, optim={"stats_every": 0})
    assert len(rows(tmp_path / "evaluations.csv")) == (1200 - 1) // 48 + 1
    assert len(rows(tmp_path / "gradients.csv")) >= 4
    assert weights(watched).equal(weights(alone))
    assert watched.act(np.eye(4)).tolist() == alone.act(np.eye(4)).tolist()


class Die(Callback):
    """Breaks the run off in a step."""

    def __init__(self, step):
        self.step = step

    def stepped(self, run, transition):
        if run.agent.steps >= self.step:
            raise Killed


class Killed(BaseException):
    pass


@pytest.mark.parametrize("num_envs", [3, 8])  # in a loop and as Gymnasium's vector form
def test_a_run_that_broke_off_goes_on_bit_for_bit(cls, num_envs, tmp_path):
    def play(folder, *also):
        with envs.make(task(cls), num_envs=num_envs) as tasks:
            agent = small(cls, tasks, 7, **NORMALIZED, optim={"stats_every": 2})
            checkpoint = Checkpoint(folder, every=96)
            evaluate = Evaluate(envs.make(task(cls), num_envs=2), every=130, episodes=2)
            callbacks = [Recorder(folder, 3), evaluate, *also, checkpoint]
            train(agent, tasks, 480, callbacks, restore=checkpoint.restore)
            return agent

    whole = play(tmp_path / "whole")
    # before the first checkpoint, then anywhere
    moments = np.random.default_rng().integers([1, 100, 100], [90, 480, 480]).tolist()
    for step in moments:
        with pytest.raises(Killed):
            play(tmp_path / "broken", Die(step))
    resumed = play(tmp_path / "broken")
    assert bits(resumed.state_dict()) == bits(whole.state_dict()), moments
    assert bits(resumed.memory.state_dict()) == bits(whole.memory.state_dict()), moments
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


# A few updates at least with each agent's own defaults, in a second or two.
RUN = ["--steps", "3000", "--num-envs", "4", "--eval-episodes", "2", "--no-preset", "--seed", "3"]


def arguments(cls):
    """The command line; what would take long by its defaults is made smaller."""
    large = getattr(cls.Config(), "updates_per_step", 0) >= 1
    fewer = ["--agent.updates-per-step", "0.02", "--agent.batch-size", "16"] if large else []
    return [*RUN, *fewer, "--env", "CartPole-v1" if chooses(cls) else "Pendulum-v1"]


def test_a_script_killed_at_random_moments_and_resumed_ends_as_if_it_never_was(
    cls, tmp_path, monkeypatch
):
    """SIGKILL as soon as the run has begun, then wherever it strikes; resumed until it is done."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"train_{cls.name}.py"])
    run = arguments(cls)
    assert cli.main(cls, [*run, "--no-progress", "--out", "whole"]) == 0

    script = [sys.executable, str(SCRIPTS / f"train_{cls.name}.py"), *run, "--out", "killed"]
    marks = ["config.json", "checkpoints/LATEST", "checkpoints/LATEST"]
    delays = np.random.default_rng().uniform(0, [0.02, 0.5, 0.5])
    for mark, delay in zip(marks, delays, strict=True):
        before = changed(tmp_path / "killed" / mark)
        with (
            open(os.devnull, "w") as null,
            subprocess.Popen([*script, "--resume"], stdout=null, stderr=null) as process,
        ):
            while process.poll() is None and changed(tmp_path / "killed" / mark) == before:
                time.sleep(0.005)
            time.sleep(delay)
            process.kill()
        assert process.returncode in (-signal.SIGKILL, 0)  # it was at work, or already done
    assert cli.main(cls, ["--out", "killed", "--resume", "--no-progress"]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def changed(path):
    """When a file was last replaced; None while there is none."""
    return path.stat().st_mtime_ns if path.exists() else None
