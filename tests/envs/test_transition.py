"""What may be bootstrapped, from one step ahead and from several."""

import numpy as np
import pytest
import torch

from envs.transition import Transition

FLAGS = ([True, False, False], [False, True, False])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [0.0, 0.5, 0.5]), (3, [0.0, 0.125, 0.125]), ([3, 2, 1], [0.0, 0.25, 0.5])],
)
@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_the_discount_is_gamma_to_the_steps_ahead_and_nothing_after_a_termination(
    steps, expected, array
):
    terminated, truncated = (array(flags) for flags in FLAGS)
    ahead = steps if isinstance(steps, int) else array(steps)
    row = Transition(None, None, None, None, terminated, truncated, None, steps=ahead)
    assert row.discount(0.5).tolist() == expected


def test_one_step_ahead_it_is_gamma_itself():
    terminated, truncated = map(torch.tensor, FLAGS)
    row = Transition(None, None, None, None, terminated, truncated, None)
    assert row.discount(0.99).equal(torch.tensor([0.0, 0.99, 0.99]))
