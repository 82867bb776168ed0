"""chainrule: reinforcement-learning agents on one backprop core, with the gradients in plain sight.

import envs
from agents import PPO, train

with envs.make("CartPole-v1", num_envs=8) as tasks:
    agent = PPO(tasks.observation_space, tasks.action_space, seed=0)
    train(agent, tasks, steps=50_000)
    agent.save("ppo.safetensors")
"""

from agents.actor_critic.a2c import A2C, A2CConfig
from agents.actor_critic.ppo import PPO, PPOConfig
from agents.agent import Actor, Agent, AgentConfig
from agents.core.files import CheckpointError
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.policy_gradient.reinforce import REINFORCE, REINFORCEConfig
from agents.q_learning.bootstrapped_dqn import BootstrappedDQN, BootstrappedDQNConfig
from agents.q_learning.dqn import DQN, DQNConfig
from agents.runner.evaluate import Evaluation, evaluate
from agents.runner.presets import preset_for
from agents.runner.registry import AGENTS, load
from agents.runner.train import Callback, Run, train
from agents.sarsa.sarsa import SARSA, SARSAConfig

__all__ = [
    "A2C",
    "AGENTS",
    "DQN",
    "PPO",
    "REINFORCE",
    "SARSA",
    "A2CConfig",
    "Actor",
    "Agent",
    "AgentConfig",
    "BootstrappedDQN",
    "BootstrappedDQNConfig",
    "Callback",
    "CheckpointError",
    "DQNConfig",
    "Evaluation",
    "NetworkConfig",
    "OptimConfig",
    "PPOConfig",
    "REINFORCEConfig",
    "Run",
    "SARSAConfig",
    "evaluate",
    "load",
    "preset_for",
    "train",
]
