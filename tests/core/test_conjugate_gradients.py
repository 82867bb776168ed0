"""Conjugate gradients are held to a direct solver."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from agents.core.conjugate_gradients import conjugate_gradients


def system(n, seed=0, condition=100.0):
    """A symmetric positive definite matrix with eigenvalues from 1 to `condition`, and b."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    matrix = basis @ np.diag(np.geomspace(1.0, condition, n)) @ basis.T
    return torch.from_numpy(matrix), torch.from_numpy(rng.normal(size=n))


@pytest.mark.parametrize("n", [1, 2, 12, 40])
def test_as_many_steps_as_unknowns_solve_the_system(n):
    matrix, b = system(n)
    x = conjugate_gradients(lambda v: matrix @ v, b, 2 * n, 1e-24)
    expected = torch.from_numpy(np.linalg.solve(matrix.numpy(), b.numpy()))
    torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-8)


def test_distinct_eigenvalues_not_unknowns_are_what_counts():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 5.0, 5.0, 9.0, 9.0], dtype=torch.float64))
    b = torch.arange(1.0, 7.0, dtype=torch.float64)
    x = conjugate_gradients(lambda v: matrix @ v, b, 3)
    torch.testing.assert_close(x, b / matrix.diagonal())


def test_each_step_comes_nearer_in_the_norm_of_the_matrix():
    matrix, b = system(30)
    solution = torch.linalg.solve(matrix, b)
    errors = []
    for steps in range(8):
        error = conjugate_gradients(lambda v: matrix @ v, b, steps) - solution
        errors.append(float(error @ matrix @ error))
    assert all(after < before for before, after in pairwise(errors))


def test_no_product_is_taken_beyond_the_tolerance():
    matrix, b = system(20, condition=3.0)
    calls = []

    def product(v):
        calls.append(v)
        return matrix @ v

    x = conjugate_gradients(product, b, 100, tolerance=1e-6)
    assert len(calls) < 15
    assert float((matrix @ x - b).square().sum()) <= 1.01e-6 * float(b.square().sum())


def test_nothing_to_solve_and_no_positive_curvature_give_zero():
    matrix, b = system(5)
    assert not conjugate_gradients(lambda v: matrix @ v, torch.zeros(5), 10).any()
    assert not conjugate_gradients(lambda v: -matrix @ v, b, 10).any()
