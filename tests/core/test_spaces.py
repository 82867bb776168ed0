"""Numbers of an action with bounds are stored between -1 and 1; stacks are told from the rest."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from agents import PPO, SAC, TD3, CrossQ
from agents.core.distributions import PolicyConfig
from agents.core.spaces import Actions, Observations, is_stack
from agents.exploration import uniform
from envs.vector import _fit

HUGE = np.finfo(np.float32).max
LOPSIDED = spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 5.0]]), dtype=np.float64)
HALF_OPEN = spaces.Box(np.array([0.0, 0.0]), np.array([4.0, np.inf]), dtype=np.float64)
LARGEST = spaces.Box(-HUGE, HUGE, (1,))
DIAL = spaces.Box(-2, 3, (2,), np.int64)
NO_WIDTH = spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64)


@pytest.mark.parametrize(
    ("space", "stored", "meant"),
    [
        (LOPSIDED, [-1, -1], [[-1, 0]]),
        (LOPSIDED, [1, 1], [[1, 5]]),
        (LOPSIDED, [0, 0.5], [[0, 3.75]]),
        (LOPSIDED, [3, -2], [[3, -2.5]]),  # a policy may draw from beyond
        (HALF_OPEN, [0.5, 7], [3, 7]),
        (LARGEST, [7], [7]),
        (NO_WIDTH, [0, 1], [0.5, 1]),
        (spaces.Box(-np.inf, np.inf, (1,), np.int64), [7], [7]),
        (DIAL, [1, -1], [3.5, -2.5]),
    ],
)
def test_the_bounds_are_minus_one_and_one_and_the_way_back_is_the_same(space, stored, meant):
    actions, stored = Actions(space), np.array([stored], np.float32)
    np.testing.assert_allclose(actions.unflatten(stored), [meant])
    np.testing.assert_allclose(actions.flatten(np.array([meant])), stored)


def test_each_whole_number_is_as_likely_by_a_uniform_draw():
    """As the agent fits an action, and as the environment is given one that was not fitted."""
    stored = uniform(60_000, 2, np.random.default_rng(0))
    fitted, given = Actions(DIAL).unflatten(stored, fit=True), Actions(DIAL).unflatten(stored)
    for found in (fitted, _fit(DIAL, given)):
        assert found.dtype == DIAL.dtype
        numbers, counts = np.unique(found, return_counts=True)
        np.testing.assert_array_equal(numbers, np.arange(-2, 4))
        np.testing.assert_allclose(counts, 20_000, rtol=0.05)


def test_whole_numbers_are_the_nearest_within_their_bounds():
    stored = Actions(DIAL).flatten(np.array([[-1.6, 2.4], [3.5, -9.0]], np.float32))
    np.testing.assert_array_equal(Actions(DIAL).unflatten(stored, fit=True), [[-2, 2], [3, -2]])


def test_what_is_counted_beside_numbers_keeps_its_count():
    actions = Actions(spaces.Tuple([spaces.Discrete(5, start=3), spaces.Box(0, 10, (1,))]))
    stored = actions.flatten((np.array([3, 7]), np.array([[0.0], [7.5]])))
    np.testing.assert_array_equal(stored, [[0, -1], [4, 0.5]])
    choice, number = actions.unflatten(stored, fit=True)
    np.testing.assert_array_equal(choice, [3, 7])
    np.testing.assert_array_equal(number, [[0], [7.5]])


class Seen(gymnasium.Env):
    """Shows what lies in a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
        spaces.Box(0, 255, (84, 84), np.uint8),
        spaces.Discrete(5, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
    ],
    ids=str,
)
def test_what_gymnasium_stacks_is_a_stack_of_so_many_frames_and_of_no_other_number(space):
    stacked = FrameStackObservation(Seen(space), 4).observation_space
    assert [frames for frames in range(2, 9) if is_stack(stacked, frames)] == [4]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([0.0, -1.0]), np.array([1.0, 1.0]), dtype=np.float64),
        spaces.Box(np.array([0.0, 0.0]), np.array([1.0, 2.0]), dtype=np.float64),
        spaces.MultiDiscrete([2, 3]),
        spaces.Discrete(2),
        spaces.Box(0, 1, ()),
        spaces.Dict({"one": spaces.Box(0, 1, (2, 3))}),
    ],
    ids=str,
)
def test_what_differs_along_its_first_axis_is_no_stack(space):
    assert not is_stack(space, 2)


@pytest.mark.parametrize("std", ["free", "state", "gsde"])
def test_a_policy_covers_the_range_whatever_its_unit(std):
    """With the same draws, an environment in other units sees the same actions in its own."""
    seen = spaces.Box(-1, 1, (3,))
    obs = np.random.default_rng(0).uniform(-1, 1, (64, 3)).astype(np.float32)
    config = PPO.Config(policy=PolicyConfig(std))
    one, other = (
        PPO(seen, spaces.Box(low, high, (2,)), config).actor(64).act(obs)[0]
        for low, high in ((-1, 1), (100, 500))
    )
    assert one.std() > 0.1
    np.testing.assert_allclose(other, 300 + 200 * one, rtol=1e-4)


def test_any_action_is_as_likely_before_learning_begins():
    drawn = uniform(20_000, 2, np.random.default_rng(0))
    assert drawn.shape == (20_000, 2)
    assert drawn.dtype == np.float32
    histogram, _ = np.histogram(drawn, bins=10, range=(-1, 1))
    np.testing.assert_allclose(histogram, 4_000, rtol=0.08)


NUMBERS = spaces.Box(-1, 1, (4,))
PARTS = spaces.Dict(at=NUMBERS, goal=spaces.Discrete(3, start=1))
IMAGE = spaces.Box(0, 255, (2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "obs", "said"),
    [
        (NUMBERS, (np.zeros(4), {}), r"env\.reset\(\) gives, \(observation, info\)"),
        (NUMBERS, np.zeros(3), r"array of shape \(3,\) .* expected numbers of shape \(\.\.\., 4\)"),
        (NUMBERS, [np.zeros(4), np.zeros(3)], "a list of 2 does not fit"),
        (NUMBERS, "here", "a str does not fit"),
        (PARTS, {"at": np.zeros(4)}, "a dict of at does not fit Dict.*: expected a dict with its"),
        (PARTS, np.zeros(5), r"array of shape \(5,\) does not fit Dict"),
        (PARTS, {"at": np.zeros(4), "goal": 0}, "0 does not fit Discrete.* whole numbers in its"),
        (PARTS, {"at": np.zeros((2, 4)), "goal": [1, 4]}, "1 to 4 does not fit Discrete"),
        (
            PARTS,
            {"at": np.zeros((2, 4)), "goal": 1},
            r"at \(2,\), goal \(\): give one observation, or",
        ),
        (
            spaces.Tuple([NUMBERS, NUMBERS]),
            (np.zeros((3, 4)), np.zeros((2, 4))),
            r"0 \(3,\), 1 \(2,\): give one observation, or equally many of each part",
        ),
        (spaces.Tuple([NUMBERS, NUMBERS]), (np.zeros(4),), "a tuple of 1 .* expected a tuple of 2"),
        (spaces.Discrete(4), 17, "17 does not fit Discrete"),
        (spaces.Discrete(4), 1.5, "1.5 does not fit Discrete"),
        (spaces.MultiDiscrete([2, 3]), [2, 0], "does not fit MultiDiscrete"),
        (IMAGE, np.ones((2, 3, 3)) / 255, "float64 .* use the bytes that the environment gives"),
        (IMAGE, np.full((2, 3, 3), 256), "256 to 256 does not fit"),
    ],
)
@pytest.mark.parametrize("call", ["act", "predict"])
def test_what_is_no_observation_of_the_space_is_one_clear_line(space, obs, said, call):
    agent = PPO(space, spaces.Discrete(2))
    with pytest.raises(ValueError, match=said) as error:
        getattr(agent, call)(obs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [-1, 6])
def test_a_category_that_there_is_not_is_no_step_to_learn_from(wrong):
    """Else it would be stored, and its one-hot code would be all zeros."""
    observations = Observations(spaces.Dict(a=NUMBERS, b=spaces.Discrete(6)))
    obs = {"a": np.zeros((2, 4), np.float32), "b": np.array([0, wrong])}
    with pytest.raises(ValueError, match=r"int64 .* does not fit Discrete\(6\): use whole numbers"):
        observations.flatten(obs)


@pytest.mark.parametrize("space", [NUMBERS, PARTS, IMAGE, spaces.MultiDiscrete([2, 3])], ids=str)
def test_what_the_space_draws_is_an_observation(space):
    agent = PPO(space, spaces.Discrete(2))
    space.seed(0)
    assert agent.act(space.sample()) in (0, 1)


@pytest.mark.parametrize("kind", [SAC, TD3, CrossQ])
@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(-np.inf, np.inf, (2,)), HALF_OPEN, NO_WIDTH], ids=str
)
def test_agents_that_need_bounds_refuse_other_spaces_by_name(kind, space):
    with pytest.raises(ValueError, match=rf"^{kind.name} needs [^\n]*$") as error:
        kind(spaces.Box(-1, 1, (3,)), space)
    assert str(space) in str(error.value)
