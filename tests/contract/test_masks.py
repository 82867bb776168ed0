"""What an observation's action_mask forbids is not taken, and no state is valued by it."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from agents import train
from envs.vector import VectorEnv
from envs.wrappers import ObserveActionMask
from tests.contract.support import chooses, config, small
from tests.contract.test_values import GAMMA, QUICK, SLOWER


class Locked(gymnasium.Env):
    """Two steps. In the first the last of three actions is the best; in the second it is locked.

    There every other one costs 1. Whoever takes the value of the locked action for that of the
    second step finds too much in the first: nothing ever tells that it is not worth what it was.
    """

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(3)
    open = np.array([[1, 1, 1], [1, 1, 0]], np.int8)
    rewards = np.array([[-1.0, 0.0, 1.0], [-1.0, -1.0, 5.0]])

    def seen(self):
        return np.array([self.at], np.float32), {"action_mask": self.open[self.at]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.seen()

    def step(self, action):
        assert self.open[self.at, action]
        reward, over = float(self.rewards[self.at, action]), self.at == 1
        self.at = 1
        return *self.seen()[:1], reward, over, False, self.seen()[1]


BOTH = {"observation": np.array([[0.0], [1.0]], np.float32), "action_mask": Locked.open}


def test_the_best_action_is_left_where_it_is_forbidden(cls):
    tasks = VectorEnv([ObserveActionMask(Locked()) for _ in range(4)])
    if not chooses(cls):
        with pytest.raises(ValueError, match=r"^[^\n]*action_mask[^\n]*Box[^\n]*leave it out$"):
            cls(tasks.observation_space, spaces.Box(-1, 1, (3,)), config(cls))
        return
    agent = small(cls, tasks, seed=1, **QUICK | SLOWER.get(cls.name, {}))
    train(agent, tasks, 3000)
    assert agent.act(BOTH)[0] == 2
    if cls.Config().network.recurrent != "none":  # here the second step is taken for a first one
        return
    expected = agent.expected_return(BOTH)
    if expected is not None:
        np.testing.assert_allclose(expected, [1.0 - GAMMA, -1.0], atol=0.08)
