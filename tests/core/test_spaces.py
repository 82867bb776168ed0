"""Actions in [-1, 1] and those of a Box with bounds are the same ones."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from agents.core.spaces import BoundedActions

LOPSIDED = spaces.Box(np.array([[-1.0, 0.0]]), np.array([[1.0, 5.0]]), dtype=np.float64)


def test_the_bounds_are_minus_one_and_one_and_the_way_back_is_the_same():
    actions = BoundedActions(LOPSIDED)
    assert actions.size == 2
    for unit, placed in (([-1, -1], [-1, 0]), ([1, 1], [1, 5]), ([0, 0.5], [0, 3.75])):
        np.testing.assert_allclose(actions.place(np.array(unit, np.float32)), placed)
        np.testing.assert_allclose(actions.unit(torch.tensor(placed)), unit)


def test_any_action_is_as_likely():
    drawn = BoundedActions(LOPSIDED).anything(20_000, np.random.default_rng(0))
    assert drawn.shape == (20_000, 2)
    assert drawn.dtype == np.float32
    assert stats.kstest(drawn[:, 0], "uniform", (-1, 2)).pvalue > 0.01
    assert stats.kstest(drawn[:, 1], "uniform", (0, 5)).pvalue > 0.01


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(np.array([0.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
        spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]), dtype=np.float64),
    ],
    ids=str,
)
def test_other_spaces_are_refused_by_name(space):
    with pytest.raises(ValueError, match=r"^needs [^\n]*$") as error:
        BoundedActions(space)
    assert str(space) in str(error.value)
