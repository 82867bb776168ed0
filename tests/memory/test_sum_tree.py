"""A sum tree against the plain list of its weights."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agents.memory.sum_tree import WIDEST, WIDTH, SumTree

many = settings(max_examples=60)
CAPACITIES = st.one_of(st.integers(1, 40), st.integers(WIDEST - 2, 20 * WIDEST))


def bits(tree: SumTree) -> list[bytes]:
    return [array.tobytes() for array in (*tree.levels, *tree.before)]


@st.composite
def written(draw: Any) -> tuple[SumTree, np.ndarray]:
    """A tree after any number of writes, by places and by ranges, and what it should hold."""
    capacity = draw(CAPACITIES)
    tree, weights = SumTree(capacity), np.zeros(capacity)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 1e-6, 1e30]))
    for _ in range(draw(st.integers(0, 12))):
        size = int(rng.integers(1, 2 * capacity + 1))
        if rng.random() < 0.5:
            index = rng.integers(capacity, size=size)
            value = scale * rng.random(size) * (rng.random(size) < 0.7)
            tree.set(index, value)
            for i, v in zip(index, value, strict=True):
                weights[i] = v
        else:
            start, stop = np.sort(rng.integers(capacity + 1, size=2))
            if start < stop:
                value = scale * rng.random(stop - start)
                tree.set_range(start, stop, value)
                weights[start:stop] = value
    return tree, weights


@given(given_=written())
@many
def test_every_node_is_the_sum_of_its_children(given_):
    tree, weights = given_
    np.testing.assert_array_equal(tree.weights[: len(weights)], weights)
    assert not tree.weights[len(weights) :].any()
    assert len(tree.levels[-1]) <= WIDEST
    for children, sums in itertools.pairwise(tree.levels):
        *_, eight = itertools.accumulate(children.reshape(-1, WIDTH).T)
        np.testing.assert_array_equal(sums[: len(eight)], eight)
        assert not sums[len(eight) :].any()
    for children, before in zip(tree.levels, tree.before, strict=False):
        first = np.zeros((len(children) // WIDTH, 1))
        sums = np.cumsum(children.reshape(-1, WIDTH), axis=1)
        left = np.concatenate([first, sums[:, :-1]], axis=1)
        np.testing.assert_array_equal(before.reshape(-1, WIDTH), left)
    total = tree.levels[-1].sum()
    assert total == pytest.approx(weights.sum(), rel=1e-12, abs=0)


@given(given_=written(), seed=st.integers(0, 2**32 - 1))
@many
def test_a_share_leads_to_the_weight_that_it_falls_into(given_, seed):
    tree, weights = given_
    if not weights.any():
        with pytest.raises(ValueError, match="every weight of the sum tree is 0"):
            tree.find(np.array([0.5]))
        return
    share = np.append(np.random.default_rng(seed).random(200), [0.0, np.nextafter(1.0, 0.0)])
    found = tree.find(share)
    assert (weights[found] > 0).all()
    above = np.cumsum(weights)
    mass, near = share * above[-1], 1e-9 * above[-1]
    assert (mass <= above[found] + near).all()
    assert (mass >= above[found] - weights[found] - near).all()


@given(given_=written())
@many
def test_rebuilt_it_is_the_same_to_the_bit(given_):
    tree, weights = given_
    other = SumTree(len(weights))
    other.set(np.arange(len(weights)), 1.0)
    other.rebuild(weights)
    assert bits(other) == bits(tree)


def test_it_finds_as_often_as_the_weights_say():
    rng = np.random.default_rng(0)
    weights = rng.random(3000) ** 3
    weights[rng.random(3000) < 0.3] = 0.0
    tree = SumTree(3000)
    tree.set(np.arange(3000), weights)
    count = np.bincount(tree.find(rng.random(300_000)), minlength=3000)
    assert not count[weights == 0].any()
    often = weights > 0.05
    seen = np.append(count[often], count[~often].sum())
    share = np.append(weights[often], weights[~often].sum()) / weights.sum()
    assert stats.chisquare(seen, share * 300_000).pvalue > 0.01


def test_a_rounding_never_leads_to_a_weight_of_zero():
    """0.1 + 0.2 and 0.3 are not the same: what is left of a share may lie past all that is left."""
    rng = np.random.default_rng(0)
    tree, size = SumTree(16 * WIDEST), 16 * WIDEST
    for _ in range(20):
        weights = rng.choice([0.0, 0.0, 0.1, 0.2, 0.3, 1e-17], size)
        tree.rebuild(weights)
        edges = np.cumsum(weights) / weights.sum()
        share = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1)])
        found = tree.find(share[share < 1])
        assert (weights[found] > 0).all()
