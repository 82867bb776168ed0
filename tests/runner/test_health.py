"""The doctor in a running training: it looks, changes nothing, and is shown."""

import io

import torch
from rich.console import Console

import envs
from agents import PPO, PPOConfig
from agents.core.optimizers import OptimConfig
from agents.runner.health import Health
from agents.runner.progress import Progress
from agents.runner.recorder import Recorder
from agents.runner.train import train
from tests.runner.fakes import weights


def trained(folder, lr, steps=2048, watched=True, terminal=False):
    tasks = envs.make("CartPole-v1", num_envs=4)
    optim = OptimConfig(lr=lr, max_grad_norm=0.5, stats_every=4)
    config = PPOConfig(rollout_size=128, batch_size=32, epochs=4, optim=optim)
    agent = PPO(tasks.observation_space, tasks.action_space, config, seed=0)
    out = io.StringIO()
    health = Health(folder)
    console = Console(file=out, force_terminal=terminal, width=250, color_system=None)
    watchers = [health, Progress(console, health=health)] if watched else []
    train(agent, tasks, steps, [Recorder(folder, log_every=8), *watchers])
    return agent, health, out.getvalue()


def test_a_fault_is_found_while_it_runs_and_shown(tmp_path):
    _, health, text = trained(tmp_path / "a", lr=0.5)
    assert health.findings[0].rule.name == "lr_too_high"
    assert "health: The learning rate is far too high" in text
    assert health.lines()[0].startswith("health: The learning rate is far too high: ")
    assert "--agent.optim.lr" in health.lines()[0]
    live = trained(tmp_path / "b", lr=0.5, terminal=True)[2]
    assert "health: The learning rate is far too high" in live
    assert "→ --agent.optim.lr" in live


def test_looking_changes_no_weight(tmp_path):
    watched, *_ = trained(tmp_path / "a", lr=1e-3)
    alone, *_ = trained(tmp_path / "b", lr=1e-3, watched=False)
    assert torch.equal(weights(watched), weights(alone))


def test_before_the_first_look_nothing_is_claimed(tmp_path):
    health = Health(tmp_path)
    assert health.word == "–"
    assert health.lines() == []
    assert not health.good


def test_of_a_few_rows_nothing_is_claimed(tmp_path):
    _, health, text = trained(tmp_path, lr=1e-3, steps=256)
    assert not health.findings
    assert not health.good
    assert health.lines()[0].startswith("health: too early to say: ")
    assert "healthy" not in text
