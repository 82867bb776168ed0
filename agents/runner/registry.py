"""The agents by name, and how one is loaded from what was saved."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from agents.actor_critic.a2c import A2C, RecurrentA2C
from agents.actor_critic.crossq import CrossQ
from agents.actor_critic.discrete_sac import DiscreteSAC
from agents.actor_critic.ppo import PPO, RecurrentPPO
from agents.actor_critic.sac import REDQ, SAC, TQC, DroQ
from agents.actor_critic.td3 import DDPG, TD3
from agents.actor_critic.trpo import NPG, TRPO
from agents.agent import Agent
from agents.core.files import CheckpointError, read_arrays
from agents.core.manifest import agent_file
from agents.policy_gradient.reinforce import REINFORCE
from agents.q_learning.bootstrapped_dqn import BootstrappedDQN
from agents.q_learning.dqn import C51, DQN, IQN, QRDQN, Rainbow
from agents.q_learning.pqn import PQN
from agents.q_learning.stream_q import StreamQ
from agents.sarsa.expected_sarsa import ExpectedSARSA
from agents.sarsa.sarsa import SARSA
from agents.sarsa.stream_sarsa import StreamSARSA

AGENTS: dict[str, type[Agent]] = {
    cls.name: cls
    for cls in (
        *(REINFORCE, A2C, RecurrentA2C, PPO, RecurrentPPO, TRPO, NPG),
        *(DDPG, TD3, SAC, TQC, REDQ, DroQ, CrossQ, DiscreteSAC),
        *(DQN, C51, QRDQN, IQN, Rainbow, BootstrappedDQN, PQN, StreamQ),
        *(SARSA, ExpectedSARSA, StreamSARSA),
    )
}


def check_name(agent: Agent) -> None:
    """Raise ValueError where what is saved of an agent would be loaded as another."""
    agent.check_name()
    cls, other = type(agent), AGENTS.get(agent.name)
    if other not in (None, cls):
        raise ValueError(
            f"{cls.__name__} has the name {agent.name!r} of another agent and would be loaded as "
            f"that: give it another name, or register it, agents.AGENTS[{agent.name!r}] = "
            f"{cls.__name__}"
        )


def load(
    path: str | Path, device: torch.device | str = "cpu", trunk: nn.Module | None = None
) -> Agent:
    """The agent in a file that `agent.save` wrote, or the latest one in a run's folder.

    A trunk of the user's own is to be given again. Nothing in the file is executed. Raises
    CheckpointError when it is missing, damaged, tampered with or not one of ours.
    """
    name = read_arrays(agent_file(path))[1].get("agent")
    if name not in AGENTS:
        raise CheckpointError(
            f"{path} holds an agent of your own, {name!r}: load it by its class, "
            f"YourAgent.from_file(path), or register that, agents.AGENTS[{name!r}] = YourAgent"
        )
    return AGENTS[name].from_file(path, device, trunk)
