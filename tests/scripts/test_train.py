"""The training scripts' command line, as a person meets it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium import spaces

import envs
from agents.actor_critic.a2c import A2C
from agents.q_learning.dqn import DQN
from agents.runner import cli
from agents.runner.registry import AGENTS
from envs.vector import VectorEnv
from tests.runner.fakes import Scripted, assert_same_run, manifest_of, rows

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHORT = ["--env", "CartPole-v1", "--steps", "400", "--num-envs", "2", "--eval-episodes", "2"]


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """run(*arguments) -> (exit code, stdout, stderr) of training A2C in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scripts/train_a2c.py"])

    def run(*arguments, agent=A2C, presets=tmp_path / "presets"):
        code = cli.main(agent, [str(argument) for argument in arguments], presets)
        return code, *capsys.readouterr()

    return run


def test_a_run_leaves_its_folder_and_ends_with_its_evaluation(run, tmp_path):
    code, out, err = run(*SHORT, "--seed", 7)
    assert code == 0
    folder = tmp_path / "runs" / "a2c-CartPole-v1-7"
    (last,) = rows(folder / "evaluations.csv")[-1:]
    mean, std = float(last["mean_return"]), float(last["std_return"])
    assert out == f"evaluation: mean_return={mean:.2f} std={std:.2f} episodes=2\n"
    assert err.count("\n") == 10
    assert {path.name for path in folder.iterdir()} == {*cli.FILES, "checkpoints"}
    assert len(rows(folder / "evaluations.csv")) == 51
    config = json.loads((folder / "config.json").read_text())
    assert config["agent"] == "a2c"
    assert config["env"] == "CartPole-v1"
    assert (config["seed"], config["num_envs"], config["steps"]) == (7, 2, 400)
    assert (config["eval_every"], config["checkpoint_every"]) == (8, 40)
    assert config["config"]["optim"]["optimizer"] == "rmsprop"
    assert set(config["versions"]) == {"chainrule", "python", "torch", "numpy", "gymnasium"}
    assert config["command"].startswith("python scripts/train_a2c.py --env CartPole-v1")


def test_the_same_seed_gives_the_same_run_whatever_is_shown(run, tmp_path):
    run(*SHORT, "--out", "a", "--tensorboard")
    run(*SHORT, "--out", "b", "--no-progress")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert any((tmp_path / "a" / "tensorboard").iterdir())


PRESET = """
["CartPole-v1"]
steps = 80
num_envs = 4
agent.rollout_size = 20
agent.optim.lr = 0.5
"""


def resolved(folder):
    config = json.loads((folder / "config.json").read_text())
    agent = config["config"]
    return config["steps"], config["num_envs"], agent["rollout_size"], agent["optim"]["lr"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (80, 4, 20, 0.5)),
        (["--agent.optim.lr", "0.1", "--num-envs", "2"], (80, 2, 20, 0.1)),
        (["--no-preset", "--steps", "40"], (40, 8, 40, 7e-4)),
        (["--no-preset", "--steps", "40", "--agent.rollout-size", "8"], (40, 8, 8, 7e-4)),
    ],
)
def test_the_command_line_wins_over_the_preset_over_the_default(run, tmp_path, arguments, expected):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "a2c.toml").write_text(PRESET)
    common = ["--env", "CartPole-v1", "--eval-episodes", "1", "--eval-every", "0", "--out", "x"]
    assert run(*common, *arguments)[0] == 0
    assert resolved(tmp_path / "x") == expected


# Bad input --------------------------------------------------------------------------------------

BAD = {
    "no env": (["--steps", "100"], "--env"),
    "unknown env": (["--env", "CartPol-v1", "--steps", "100"], "CartPol"),
    "no steps": (["--env", "CartPole-v1"], "--steps"),
    "zero steps": (["--env", "CartPole-v1", "--steps", "0"], "--steps is 0: use 1 or more"),
    "unknown flag": ([*SHORT, "--seeed", "1"], "did you mean --seed"),
    "unknown field": ([*SHORT, "--agent.optim.lrr", "1"], "--agent.optim.lr"),
    "not a number": ([*SHORT, "--seed", "x"], "--seed"),
    "impossible value": ([*SHORT, "--agent.optim.lr", "-1"], r"optim.lr is -1.0: use a positive"),
    "impossible choice": ([*SHORT, "--agent.optim.optimizer", "adan"], "adan"),
    "negative seed": ([*SHORT, "--seed", "-1"], "--seed is -1: use 0 or more"),
    "no episodes": ([*SHORT, "--eval-episodes", "0"], "--eval-episodes is 0"),
    "no envs": ([*SHORT, "--num-envs", "0"], "--num-envs is 0"),
    "device": ([*SHORT, "--device", "abacus"], "--device abacus"),
    "both": ([*SHORT, "--resume", "--overwrite"], "one of them"),
    "unwritable": ([*SHORT, "--out", "file/below"], "file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(run, tmp_path, name):
    arguments, message = BAD[name]
    (tmp_path / "file").touch()
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("train_a2c.py: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unsupported_action_space_is_one_clear_line(run, tmp_path):
    code, out, err = run("--env", "Pendulum-v1", "--steps", "100", agent=DQN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "Discrete" in err
    assert not any(tmp_path.iterdir())


def test_an_unsupported_observation_space_is_one_clear_line(run, tmp_path, monkeypatch):
    class Words(Scripted):
        observation_space = spaces.Text(5)

    monkeypatch.setattr(envs, "make", lambda id, num_envs: VectorEnv([Words(3)]))
    code, out, err = run(*SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "observation space" in err
    assert not any(tmp_path.iterdir())


def test_a_missing_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.runner.settings.find_spec", lambda name: None)
    code, out, err = run(*SHORT, "--tensorboard")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'chainrule[tensorboard]'" in err
    assert not any(tmp_path.iterdir())


def test_a_bad_preset_is_one_clear_line(run, tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "a2c.toml").write_text(PRESET + "agent.clip = 1\n")
    code, out, err = run(*SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no field 'clip'" in err
    assert run(*SHORT, "--no-preset")[0] == 0


def test_a_folder_in_use_is_left_alone(run, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("mine")
    code, out, err = run(*SHORT, "--out", "x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    for way in ("--resume", "--overwrite", "--out"):
        assert way in err
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["thesis.txt"]
    assert run(*SHORT, "--out", "x", "--overwrite")[0] == 0
    assert run(*SHORT, "--out", "x", "--overwrite", "--seed", "3")[0] == 0
    assert (tmp_path / "x" / "thesis.txt").read_text() == "mine"
    assert json.loads((tmp_path / "x" / "config.json").read_text())["seed"] == 3
    assert len(rows(tmp_path / "x" / "evaluations.csv")) == 51


# Resuming ---------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, step):
    """Press Ctrl-C in the midst of a step."""
    observe = A2C.observe

    def press(self, transition):
        observe(self, transition)
        if self.steps == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(A2C, "observe", press)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(run, tmp_path, monkeypatch):
    run(*SHORT, "--out", "whole")
    with monkeypatch.context() as m:
        interrupt_at(m, 150)
        code, out, err = run(*SHORT, "--out", "parts", "--seed", "0")
    assert code == 130
    assert out == ""
    command = f"python scripts/train_a2c.py {' '.join(SHORT)} --out parts --seed 0 --resume"
    assert err.splitlines()[-1].strip() == command
    assert manifest_of(tmp_path / "parts")["step"] == 150
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code, out, err = run("--out", "parts", "--resume")  # the folder knows the rest
    assert code == 0
    assert out.startswith("evaluation: mean_return=")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_is_left_alone(run, tmp_path):
    _, first, _ = run(*SHORT, "--out", "x")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, out, err = run(*SHORT, "--out", "x", "--resume")
    assert code == 0
    assert out == first
    assert "finished" in err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_resuming_what_was_not_begun_begins_it(run, tmp_path):
    run(*SHORT, "--out", "a")
    assert run(*SHORT, "--out", "b", "--resume")[0] == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_resuming_before_the_first_checkpoint_starts_over(run, tmp_path):
    run(*SHORT, "--out", "a")
    run(*SHORT, "--out", "b")
    (tmp_path / "b" / "checkpoints" / "LATEST").unlink()
    assert run(*SHORT, "--out", "b", "--resume")[0] == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "500"], "--steps is 500"),
        (
            ["--agent.optim.lr", "0.25"],
            "--agent.optim.lr is 0.25, but the run in x began with 0.0007",
        ),
        (["--seed", "3"], "--seed is 3"),
        (["--env", "Acrobot-v1"], "--env is Acrobot-v1"),
    ],
)
def test_resuming_with_another_setting_is_refused(run, arguments, message):
    run(*SHORT, "--out", "x")
    code, out, err = run("--out", "x", "--resume", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_resuming_another_agents_run_is_refused(run):
    run(*SHORT, "--out", "x")
    code, out, err = run(*SHORT, "--out", "x", "--resume", agent=DQN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "holds a run of a2c, not of dqn" in err


@pytest.mark.parametrize("name", ["config.json", "LATEST", "manifest.json", "training.safetensors"])
def test_resuming_from_a_damaged_piece_is_refused(run, tmp_path, monkeypatch, name):
    with monkeypatch.context() as m:
        interrupt_at(m, 150)
        run(*SHORT, "--out", "x")
    path = max((tmp_path / "x").rglob(name))
    path.write_bytes(path.read_bytes()[:-2])
    if name == "LATEST":
        path.write_text("../../elsewhere")
    code, out, err = run(*SHORT, "--out", "x", "--resume")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_the_run_ends_at_the_target_return(run, tmp_path):
    code, out, err = run(*SHORT, "--out", "x", "--target-return", "5")
    assert code == 0
    assert "stopped at step 8: the evaluation's mean return" in err
    assert len(rows(tmp_path / "x" / "evaluations.csv")) == 2
    code, again, err = run(*SHORT, "--out", "x", "--resume")
    assert (code, again) == (0, out)
    assert "finished" in err


# As processes of their own ----------------------------------------------------------------------


def script(name, *arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_help_explains_the_options(name, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(AGENTS[name], ["--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "--env",
        "--agent.optim.lr",
        "Learning rate",
        "--no-preset",
        "Every random stream",
    ):
        assert text in out
