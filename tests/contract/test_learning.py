"""The quickest agents learn CartPole within seconds; benchmarks tell how well all of them do."""

import pytest

import envs
from agents import (
    PPO,
    REINFORCE,
    NetworkConfig,
    OptimConfig,
    PPOConfig,
    REINFORCEConfig,
    evaluate,
    train,
)

CASES = [
    (PPO, PPOConfig(rollout_size=512, optim=OptimConfig(lr=1e-3, max_grad_norm=0.5)), 20_000, 300),
    (
        PPO,
        PPOConfig(
            rollout_size=512,
            normalize_obs=True,
            normalize_reward=True,
            target_kl=0.05,
            optim=OptimConfig(lr=1e-3, max_grad_norm=0.5),
        ),
        20_000,
        300,
    ),
    (
        REINFORCE,
        REINFORCEConfig(
            episodes_per_update=4,
            network=NetworkConfig(shared_trunk=False),
            optim=OptimConfig(lr=5e-3, schedule="linear", stats_every=1),
        ),
        60_000,
        200,
    ),
]


@pytest.mark.parametrize(
    ("cls", "config", "steps", "enough"), CASES, ids=["ppo", "ppo-normalized", "reinforce"]
)
def test_cartpole_is_learned(cls, config, steps, enough):
    """An agent that has not learned makes about 20, the task ends at 500."""
    tasks = envs.make("CartPole-v1", num_envs=4 if cls is REINFORCE else 8)
    agent = cls(tasks.observation_space, tasks.action_space, config, seed=1)
    train(agent, tasks, steps)
    assert evaluate(agent, envs.make("CartPole-v1", num_envs=10), 10, seed=99).mean >= enough
