"""The training scripts' command line, as a person meets it."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gymnasium import spaces

import envs
from agents import Checkpoint, Recorder, train
from agents.actor_critic.a2c import A2C
from agents.q_learning.dqn import DQN
from agents.runner import cli
from agents.runner.folder import ABOUT, FILES, claimed
from agents.runner.registry import AGENTS
from agents.runner.results import read_run
from agents.runner.settings import read_arguments
from envs.vector import VectorEnv
from tests.runner.fakes import Scripted, assert_same_run, manifest_of, rows

SCRIPTS = Path(__file__).parents[2] / "scripts"
SHORT = ["--env", "CartPole-v1", "--steps", "400", "--num-envs", "2", "--eval-episodes", "2"]
SHORT += ["--eval-every", "8"]


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
    first, *lines, last_line = err.splitlines()
    health = [line for line in lines if not line.startswith("step ")]
    lines = [line for line in lines if line.startswith("step ")]
    where = "in the folder runs/a2c-CartPole-v1-7"
    assert first == f"training a2c in CartPole-v1 without a preset, {where}"
    assert len(lines) == 10
    assert health[0].startswith("health: ")
    assert last_line == "what was recorded is in runs/a2c-CartPole-v1-7"
    assert {path.name for path in folder.iterdir()} == {*FILES, "checkpoints"}
    evaluations = rows(folder / "evaluations.csv")
    assert [int(row["step"]) for row in evaluations] == list(range(8, 401, 8))
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
    assert run(*SHORT, "--out", "b", "--no-progress")[2] == ""
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert any((tmp_path / "a" / "tensorboard").iterdir())


PRESET = """
["CartPole-v1"]
steps = 80
num_envs = 4
agent.rollout_size = 20
agent.optim.lr = 0.5
"""


@pytest.fixture
def presets(tmp_path):
    """A file of presets for A2C."""
    (tmp_path / "presets").mkdir()
    path = tmp_path / "presets" / "a2c.toml"
    path.write_text(PRESET)
    return path


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
@pytest.mark.parametrize("env", ["CartPole-v1", "gymnasium.envs.classic_control:CartPole-v1"])
def test_the_command_line_wins_over_the_preset_over_the_default(
    run, presets, tmp_path, env, arguments, expected
):
    code, _, err = run("--env", env, "--eval-episodes", "1", *arguments)
    assert code == 0
    preset = "without a preset" if "--no-preset" in arguments else "with the preset for it"
    folder = f"runs/a2c-{env.replace(':', '-')}-0"
    assert err.startswith(f"training a2c in {env} {preset}, in the folder {folder}\n")
    assert resolved(tmp_path / folder) == expected


@pytest.mark.parametrize(
    ("steps", "settings", "expected"),
    [
        (400, {}, 400),
        (20_000, {}, 1_000),
        (100_000, {}, 2_000),
        (400, {"eval_every": 0}, 0),
        (100_000, {"eval_every": 50}, 50),
    ],
)
def test_evaluations_do_not_dominate_a_short_run(steps, settings, expected):
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    argv = ["--env", "CartPole-v1", "--steps", str(steps), *words]
    assert read_arguments(A2C, argv).eval_every == expected


def test_an_environment_is_made_with_its_options(run, tmp_path):
    """For training, for the evaluations within, and again by what reads the folder."""
    lake = ["--env", "FrozenLake-v1", "--steps", "200", "--eval-episodes", "2", "--no-progress"]
    options = ["--env-options", "max_episode_steps=3", "is_slippery=False"]
    assert run(*lake, *options, "--out", "x")[0] == 0
    lengths = [float(row["length"]) for row in rows(tmp_path / "x" / "episodes.csv")]
    assert max(lengths) == 3
    assert max(float(row["mean_length"]) for row in rows(tmp_path / "x" / "evaluations.csv")) <= 3
    assert read_run(tmp_path / "x").env_options == {"max_episode_steps": 3, "is_slippery": False}
    assert run("--out", "x", "--resume")[0] == 0
    code, _, err = run("--out", "x", "--resume", *options[:-1], "is_slippery=true")
    assert code == 2
    assert "--env-options is_slippery is True, but the run in x began with False" in err


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["a=.5", "b=-3", "c=TRUE", "d=None"], {"a": 0.5, "b": -3, "c": True, "d": None}),
        (['a="no"', "b=[1, 2]", "c=4x4", "d="], {"a": "no", "b": [1, 2], "c": "4x4", "d": ""}),
    ],
)
def test_options_are_numbers_words_and_lists(words, options):
    argv = ["--env", "CartPole-v1", "--steps", "9", "--env-options", *words]
    assert read_arguments(A2C, argv).env_options == options


# Bad input --------------------------------------------------------------------------------------

BAD = {
    "nothing": ([], "--env is missing: give --env and --steps\n"),
    "no env": (["--steps", "100"], "--env is missing"),
    "unknown env, no steps": (["--env", "CartPole-v9"], "there is no environment 'CartPole-v9'"),
    "unknown env": (["--env", "CartPol-v1", "--steps", "100"], "CartPol"),
    "no steps": (
        ["--env", "Pendulum-v1"],
        "--steps is missing: a2c has no preset for Pendulum-v1 (there are none)",
    ),
    "not a whole number": (["--env", "CartPole-v1", "--seed", "1.5"], "--seed"),
    "threads": ([*SHORT, "--threads", "99999999999999"], "99999999999999: use 1 to 1024"),
    "a file": ([*SHORT, "--out", "file"], "file is a file: give a folder"),
    "unknown module": (["--env", "no_such_module:Task-v0", "--steps", "9"], "no_such_module"),
    "too large": (
        [*SHORT, "--agent.network.hidden-sizes", "100000000", "100000000"],
        "allocate",
    ),
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
    "an option's name alone": ([*SHORT, "--env-options", "gravity"], "gravity is no option"),
    "no such option": ([*SHORT, "--env-options", "gravity=1"], "gravity"),
    "another flag's": (
        [*SHORT, "--env-options", "seed=1"],
        "seed is no option of the environment itself",
    ),
    "an option twice": ([*SHORT, "--env-options", "a=1", "a=2"], "a is given twice"),
    "options twice": (
        [*SHORT, "--env-options", "a=1", "--env-options=b=2"],
        "--env-options is given twice: write all options behind one",
    ),
    "an unclear option": ([*SHORT, "--env-options", "a=no"], "a=no: write true or false"),
    "an infinite option": ([*SHORT, "--env-options", "a=NaN"], "a=NaN: use a finite number"),
    "an option's value": (
        ["--env", "FrozenLake-v1", "--steps", "9", "--env-options", "map_name=5x5"],
        "FrozenLake-v1 cannot be made with {'map_name': '5x5'}: KeyError: '5x5'",
    ),
    "steps": (["--env", "CartPole-v1", "--steps", "1e5"], "--steps is 1e5: use a whole number\n"),
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


@pytest.mark.parametrize("env", ["CartPole-v1", "CliffWalking-v1", "MinAtar/Breakout-v1"])
def test_observations_that_are_no_stacks_are_one_clear_line(run, tmp_path, env):
    """CartPole has as many numbers as a stack would have frames, but with bounds of their own."""
    words = ["--env", env, "--steps", "100", "--agent.frames", "4"]
    code, out, err = run(*words, agent=DQN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "frames is 4, but the observations are no stacks of so many" in err
    assert not any(tmp_path.iterdir())


def test_observations_that_only_look_like_stacks_are_one_clear_line(run):
    """The rows of MinAtar's 10 by 10 fields."""
    words = ["--env", "MinAtar/Breakout-v1", "--steps", "100", "--agent.frames", "10"]
    code, out, err = run(*words, "--no-progress", agent=DQN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "frames is 10, but next_obs is not obs with one frame more at its end" in err


def test_an_unsupported_observation_space_is_one_clear_line(run, tmp_path, monkeypatch):
    class Words(Scripted):
        observation_space = spaces.Text(5)

    monkeypatch.setattr(envs, "make", lambda id, num_envs, backend: VectorEnv([Words(3)]))
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


def test_without_a_preset_steps_have_to_be_given(run, presets):
    _, _, err = run("--env", "Pendulum-v1")
    assert err.endswith(
        "--steps is missing: a2c has no preset for Pendulum-v1 (there are CartPole-v1)\n"
    )
    _, _, err = run("--env", "CartPole-v1", "--no-preset")
    assert err.endswith("--steps is missing: no preset is used\n")


def test_a_bad_preset_is_one_clear_line(run, presets):
    presets.write_text(PRESET + "agent.clip = 1\n")
    code, out, err = run(*SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no field 'clip'" in err
    assert run(*SHORT, "--no-preset")[0] == 0


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["--overwrite", "--resume", "--progress"])
@pytest.mark.parametrize(
    "content",
    [
        {"thesis.txt": "mine"},
        {"config.json": '{"theme": "dark"}', "checkpoints/mine": "mine"},
        {"config.json": "{}", "updates.csv": ""},
        {"checkpoints/LATEST": "200 0", "updates.csv": "step"},
    ],
)
def test_a_folder_that_holds_no_run_of_ours_is_left_alone(run, tmp_path, way, content):
    for name, text in content.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_text(text)
    before = files(tmp_path)
    code, out, err = run(*SHORT, "--out", "x", way)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert files(tmp_path) == before


def test_a_run_is_replaced_only_when_asked_and_nothing_else_with_it(run, tmp_path):
    assert run(*SHORT, "--out", "x")[0] == 0
    (tmp_path / "x" / "thesis.txt").write_text("mine")
    said = [tmp_path / "x" / name for name in ABOUT]
    for path in said:
        path.write_text("of the run that is replaced")
    before = files(tmp_path)
    code, out, err = run(*SHORT, "--out", "x")
    assert (code, out, err.count("\n")) == (2, "", 1)
    for way in ("--resume", "--overwrite", "--out"):
        assert way in err
    assert files(tmp_path) == before
    assert run(*SHORT, "--out", "x", "--overwrite", "--seed", "3")[0] == 0
    assert (tmp_path / "x" / "thesis.txt").read_text() == "mine"
    assert not any(path.exists() for path in said)
    assert json.loads((tmp_path / "x" / "config.json").read_text())["seed"] == 3
    assert len(rows(tmp_path / "x" / "evaluations.csv")) == 50


@pytest.mark.parametrize("way", ["--resume", "--overwrite", "--progress"])
def test_a_folder_is_used_by_one_process_at_a_time(run, tmp_path, way):
    assert run(*SHORT, "--out", "x")[0] == 0
    before = files(tmp_path)
    with claimed(tmp_path / "x"):
        code, out, err = run(*SHORT, "--out", "x", way)
    assert (code, out) == (2, "")
    assert err == "train_a2c.py: x is in use by another process\n"
    assert files(tmp_path) == before
    assert run(*SHORT, "--out", "x", "--resume")[0] == 0


@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_a_run_without_an_update_says_so(run, progress):
    code, out, err = run(*SHORT, "--agent.rollout-size", "10000", progress)
    assert code == 0
    assert out.startswith("evaluation: ")
    assert "warning: no update was made by a2c: none fell due in 400 steps\n" in err
    assert "warning" not in run(*SHORT, "--out", "x", progress)[2]


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
    before = signal.getsignal(signal.SIGINT)
    run(*SHORT, "--out", "whole")
    with monkeypatch.context() as m:
        interrupt_at(m, 150)
        code, out, err = run(*SHORT, "--out", "parts", "--seed", "0")
    assert code == 130
    assert out == ""
    command = f"python scripts/train_a2c.py {' '.join(SHORT)} --out parts --seed 0 --resume"
    assert err.splitlines()[-1].strip() == command
    assert err.count("interrupted") == 1
    assert manifest_of(tmp_path / "parts")["step"] == 150
    assert signal.getsignal(signal.SIGINT) is before
    code, out, err = run("--out", "parts", "--resume")  # the folder knows the rest
    assert code == 0
    assert out.startswith("evaluation: mean_return=")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("limit", [10, 9_000])  # less than a table has by then; than a checkpoint
def test_a_file_that_cannot_be_written_is_one_clear_line_and_the_run_goes_on(
    run, tmp_path, monkeypatch, limit
):
    run(*SHORT, "--out", "whole")
    observe, (soft, hard) = A2C.observe, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, transition):
        observe(self, transition)
        if self.steps == 150:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    with monkeypatch.context() as m:
        m.setattr(A2C, "observe", fill)
        try:
            code, out, err = run(*SHORT, "--out", "parts")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "train_a2c.py: parts: File too large: put that right, then go on with --resume; the last "
        "checkpoint is whole"
    )
    assert "Traceback" not in err
    assert 0 < manifest_of(tmp_path / "parts")["step"] <= 150
    assert run("--out", "parts", "--resume")[0] == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "x: No space left on device: free spa"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x/a"), "x/a: Disk quota exceeded: free spa"),
        (PermissionError(errno.EACCES, "Permission denied", "b"), "b: Permission denied: put that"),
        (OSError("some other"), "x: some other: put that right, then go on with --resume; the las"),
    ],
)
def test_what_a_full_disk_needs_is_said(run, monkeypatch, error, said):
    def write(self, run):
        raise error

    monkeypatch.setattr(Checkpoint, "write", write)
    code, out, err = run(*SHORT, "--out", "x")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"train_a2c.py: {said}")


def test_a_run_that_no_script_began_is_not_resumed_by_one(run, tmp_path):
    tasks = envs.make("CartPole-v1", num_envs=2)
    agent = A2C(tasks.observation_space, tasks.action_space)
    train(agent, tasks, 100, [Recorder(tmp_path / "x"), Checkpoint(tmp_path / "x")])
    before = files(tmp_path)
    code, out, err = run(*SHORT, "--out", "x", "--resume")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "x holds a run that no script began" in err
    assert files(tmp_path) == before


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
    shutil.rmtree(tmp_path / "b" / "checkpoints")
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, "steps is 'many': expected int"),
        ({"config": {"gamma": "x"}}, "gamma is 'x': expected float"),
        ({"seed": None}, "seed is None: expected int"),
        (None, "no 'agent' in it"),
    ],
)
def test_a_damaged_config_is_one_clear_line(run, tmp_path, change, message):
    run(*SHORT, "--out", "x")
    shutil.rmtree(tmp_path / "x" / "checkpoints")
    path = tmp_path / "x" / "config.json"
    config = {} if change is None else json.loads(path.read_text()) | change
    path.write_text(json.dumps(config))
    code, out, err = run("--out", "x", "--resume")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "config.json" in err


@pytest.mark.parametrize("step", [150, 400])
def test_a_config_that_was_changed_is_refused(run, tmp_path, monkeypatch, step):
    with monkeypatch.context() as m:
        interrupt_at(m, step)
        run(*SHORT, "--out", "x")
    path = tmp_path / "x" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 500}))
    before = files(tmp_path)
    code, out, err = run("--out", "x", "--resume")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "config.json was changed after it was written" in err
    assert files(tmp_path) == before


def test_checkpoints_of_which_none_is_named_the_last_are_refused_and_kept(run, tmp_path):
    run(*SHORT, "--out", "x")
    checkpoints = tmp_path / "x" / "checkpoints"
    (checkpoints / "LATEST").unlink()
    shutil.copytree(min(checkpoints.glob("[0-9]*")), checkpoints / "9")
    before = files(tmp_path)
    code, out, err = run(*SHORT, "--out", "x", "--resume")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "LATEST, which names the last of the checkpoints beside it, is gone" in err
    assert files(tmp_path) == before


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
    assert [row["step"] for row in rows(tmp_path / "x" / "evaluations.csv")] == ["8", "8"]
    final = read_run(tmp_path / "x").evaluations()
    assert final["step"].tolist() == [8]
    assert f"mean_return={final['mean_return'][0]:.2f}" in out
    code, again, err = run(*SHORT, "--out", "x", "--resume")
    assert (code, again) == (0, out)
    assert "finished" in err


def test_a_target_return_is_looked_at_before_the_end(run, tmp_path):
    short = ["--env", "CartPole-v1", "--steps", "400", "--num-envs", "2", "--eval-episodes", "2"]
    code, _, err = run(*short, "--out", "x", "--target-return", "5")
    assert code == 0
    assert "stopped at step 40:" in err  # a tenth of the way
    for every in ("0", "400"):
        code, out, err = run(*short, "--out", "y", "--target-return", "5", "--eval-every", every)
        assert (code, out) == (2, "")
        assert "--target-return needs evaluations before the run's end" in err


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
        f"Train {AGENTS[name].__name__} in a Gymnasium environment",
    ):
        assert text in out


def test_help_shows_the_preset_of_the_environment(run, presets, capsys):
    with pytest.raises(SystemExit) as exit:
        run("--env", "CartPole-v1", "--help")
    assert exit.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(default: 80)" in out
    assert "there are CartPole-v1" in out
