"""chainrule: reinforcement-learning agents on one backprop core, with the gradients in plain sight.

import envs
from agents import PPO, train

with envs.make("CartPole-v1", num_envs=8) as tasks:
    agent = PPO(tasks.observation_space, tasks.action_space, seed=0)
    train(agent, tasks, steps=50_000)
    agent.save("ppo.safetensors")
"""

from agents.actor_critic.a2c import A2C, A2CConfig, RecurrentA2C, RecurrentA2CConfig
from agents.actor_critic.crossq import CrossQ, CrossQConfig
from agents.actor_critic.discrete_sac import DiscreteSAC, DiscreteSACConfig
from agents.actor_critic.ppo import PPO, PPOConfig, RecurrentPPO, RecurrentPPOConfig
from agents.actor_critic.sac import (
    REDQ,
    SAC,
    TQC,
    DroQ,
    DroQConfig,
    REDQConfig,
    SACConfig,
    TQCConfig,
)
from agents.actor_critic.td3 import DDPG, TD3, DDPGConfig, TD3Config
from agents.actor_critic.trpo import NPG, TRPO, NPGConfig, TRPOConfig
from agents.agent import Actor, Agent, AgentConfig
from agents.core.files import CheckpointError
from agents.core.network import NetworkConfig
from agents.core.optimizers import OptimConfig
from agents.policy_gradient.reinforce import REINFORCE, REINFORCEConfig
from agents.q_learning.bootstrapped_dqn import BootstrappedDQN, BootstrappedDQNConfig
from agents.q_learning.dqn import (
    C51,
    DQN,
    IQN,
    QRDQN,
    C51Config,
    DQNConfig,
    IQNConfig,
    QRDQNConfig,
    Rainbow,
    RainbowConfig,
)
from agents.q_learning.pqn import PQN, PQNConfig
from agents.q_learning.stream_q import StreamQ, StreamQConfig
from agents.runner.callbacks import Evaluate, Interrupt
from agents.runner.checkpoint import Checkpoint
from agents.runner.evaluate import Evaluation, evaluate
from agents.runner.guard import Guard
from agents.runner.health import Health
from agents.runner.presets import preset_for
from agents.runner.progress import Progress
from agents.runner.recorder import Recorder
from agents.runner.registry import AGENTS, load
from agents.runner.train import Callback, Run, train
from agents.sarsa.expected_sarsa import ExpectedSARSA, ExpectedSARSAConfig
from agents.sarsa.sarsa import SARSA, SARSAConfig
from agents.sarsa.stream_sarsa import StreamSARSA, StreamSARSAConfig

__all__ = [
    "A2C",
    "AGENTS",
    "C51",
    "DDPG",
    "DQN",
    "IQN",
    "NPG",
    "PPO",
    "PQN",
    "QRDQN",
    "REDQ",
    "REINFORCE",
    "SAC",
    "SARSA",
    "TD3",
    "TQC",
    "TRPO",
    "A2CConfig",
    "Actor",
    "Agent",
    "AgentConfig",
    "BootstrappedDQN",
    "BootstrappedDQNConfig",
    "C51Config",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CrossQ",
    "CrossQConfig",
    "DDPGConfig",
    "DQNConfig",
    "DiscreteSAC",
    "DiscreteSACConfig",
    "DroQ",
    "DroQConfig",
    "Evaluate",
    "Evaluation",
    "ExpectedSARSA",
    "ExpectedSARSAConfig",
    "Guard",
    "Health",
    "IQNConfig",
    "Interrupt",
    "NPGConfig",
    "NetworkConfig",
    "OptimConfig",
    "PPOConfig",
    "PQNConfig",
    "Progress",
    "QRDQNConfig",
    "REDQConfig",
    "REINFORCEConfig",
    "Rainbow",
    "RainbowConfig",
    "Recorder",
    "RecurrentA2C",
    "RecurrentA2CConfig",
    "RecurrentPPO",
    "RecurrentPPOConfig",
    "Run",
    "SACConfig",
    "SARSAConfig",
    "StreamQ",
    "StreamQConfig",
    "StreamSARSA",
    "StreamSARSAConfig",
    "TD3Config",
    "TQCConfig",
    "TRPOConfig",
    "evaluate",
    "load",
    "preset_for",
    "train",
]
