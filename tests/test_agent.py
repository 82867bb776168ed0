"""What an agent cannot be made of is said in one line."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import envs
from agents import PPO, Agent, AgentConfig, PPOConfig, load
from agents.core.seeding import stream

SPACES = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)


def test_a_class_that_lacks_something_is_told_what():
    class Unnamed(Agent):
        Config = AgentConfig

    class Unset(Agent):
        name = "unset"

    class Forgetful(Agent):
        name = "forgetful"
        Config = AgentConfig

        def build(self):
            pass

    for cls, said in (
        (Unnamed, "Unnamed has no name"),
        (Unset, "Unset has no Config"),
        (Forgetful, r"Forgetful\.build\(\) made no memory: set self\.memory"),
    ):
        with pytest.raises(TypeError, match=said):
            cls(*SPACES)


def test_what_is_no_space_is_refused():
    tasks: Any = envs.make("CartPole-v1")
    config: Any = PPOConfig()
    number: Any = 2
    with pytest.raises(TypeError, match=r"^the observation space is .*, such as a VectorEnv has"):
        PPO(tasks, config)
    with pytest.raises(TypeError, match=r"^the action space is 2: give a Gymnasium space, such as"):
        PPO(tasks.observation_space, number)


def test_a_config_that_could_not_be_loaded_as_what_it_is_is_refused():
    @dataclass(frozen=True)
    class Richer(PPOConfig):
        bonus: float = 0.5

    class Rich(PPO):
        name = "rich"

    with pytest.raises(ValueError, match=r"^rich takes a PPOConfig, not a Richer: .* its Config"):
        Rich(*SPACES, Richer())


@pytest.mark.parametrize("device", ["meta", "nonsense"])
def test_a_device_that_is_not_there_is_refused(device, tmp_path):
    PPO(*SPACES).save(tmp_path / "agent")
    said = rf"^device {device} cannot be used on this machine: use"
    with pytest.raises(ValueError, match=said):
        PPO(*SPACES, device=device)
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "agent", device)


def test_numpys_whole_numbers_are_seeds(tmp_path):
    agent = PPO(*SPACES, seed=np.int64(3))  # type: ignore[arg-type]
    agent.save(tmp_path / "agent")
    assert PPO.from_file(tmp_path / "agent").seed == 3


@pytest.mark.parametrize("seed", [-1, None, 1.5, "7"])
def test_what_is_no_seed_is_refused(seed):
    for use in (lambda: stream(seed, "init"), lambda: PPO(*SPACES, seed=seed)):
        with pytest.raises(ValueError, match=rf"^seed is {seed!r}: use a whole number, 0 or more$"):
            use()
