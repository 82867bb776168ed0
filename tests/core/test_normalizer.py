"""Running statistics are those of everything seen, whatever the batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.core.files import join_state, split_state
from agents.core.normalizer import EPSILON, ObservationNormalizer, RewardScaler, RunningMoments

COLUMNS = 3
ROWS = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(1, 20), st.just(COLUMNS)),
    elements=st.floats(-1e4, 1e4, width=32),
)


def learned(*batches: np.ndarray) -> RunningMoments:
    moments = RunningMoments(COLUMNS)
    for batch in batches:
        assert moments.update(batch)
    return moments


@given(batches=st.lists(ROWS, min_size=1, max_size=6), data=st.data())
@settings(max_examples=50)
def test_batch_by_batch_gives_the_moments_of_everything_in_any_order(batches, data):
    everything = np.concatenate([batch.astype(np.float64) for batch in batches])
    mixed = data.draw(st.permutations(batches))
    for moments in (learned(*batches), learned(*mixed), learned(*everything[:, None])):
        assert moments.count == len(everything)
        np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-9, atol=1e-8)
        np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-9, atol=1e-6)


def test_a_small_spread_around_a_large_mean_is_not_lost():
    rows = 1e6 + np.random.default_rng(0).standard_normal((1000, COLUMNS))
    moments = learned(*np.split(rows, 100))
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-6)


@given(
    before=ROWS,
    batch=ROWS,
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    place=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_what_is_not_finite_is_refused_whole(before, batch, bad, place):
    moments = learned(before)
    state = moments.state_dict()
    batch.flat[place % batch.size] = bad
    assert not moments.update(batch)
    assert moments.update(batch[:0])  # nothing to refuse
    for name, value in moments.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize("fresh", [lambda: RunningMoments(1), lambda: RewardScaler(0.9)])
def test_a_state_comes_back_and_goes_on(fresh):
    rng = np.random.default_rng(0)
    one, two = fresh(), fresh()

    def feed(part: RunningMoments, reward: np.ndarray, done: np.ndarray) -> None:
        if isinstance(part, RewardScaler):
            part.observe(reward, done, np.ones_like(done))
        else:
            part.update(reward[:, None])

    steps = [(rng.standard_normal(4), rng.random(4) < 0.2) for _ in range(20)]
    for step in steps[:10]:
        feed(one, *step)
    two.load_state_dict(join_state(*split_state(one.state_dict())))
    for step in steps[10:]:
        feed(one, *step)
        feed(two, *step)
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(value, two.state_dict()[name])


# Observations -----------------------------------------------------------------------------------


@given(rows=ROWS)
@settings(max_examples=30)
def test_normalised_columns_have_mean_0_and_variance_1_and_categories_pass(rows):
    rows[:, 1] = np.arange(len(rows))
    normalizer = ObservationNormalizer(np.array([True, False, True]), limit=10.0)
    normalizer.update(rows)
    z = normalizer(rows)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z[:, 1], rows[:, 1])
    deviation = rows.astype(np.float64).std(0)
    for column in (0, 2):
        assert abs(z[:, column].mean()) < 1e-3
        shrunk = deviation[column] / np.sqrt(deviation[column] ** 2 + EPSILON)
        assert z[:, column].std() == pytest.approx(shrunk, abs=1e-3)
    np.testing.assert_array_equal(normalizer.tensor(torch.from_numpy(rows)), z)
    np.testing.assert_array_equal(normalizer(rows[None]), z[None])


def test_outliers_are_clipped():
    normalizer = ObservationNormalizer(np.array([True]), limit=2.0)
    normalizer.update(np.random.default_rng(0).standard_normal((100, 1)))
    np.testing.assert_array_equal(normalizer(np.array([[1e6], [-1e6]])), [[2.0], [-2.0]])


def test_no_clipping_hides_what_is_not_finite():
    normalizer = ObservationNormalizer(np.array([True, True]))
    normalizer.update(np.random.default_rng(0).standard_normal((100, 2)))
    np.testing.assert_array_equal(np.isnan(normalizer(np.array([[np.inf, 0.0]]))), [[True, False]])


# Rewards ----------------------------------------------------------------------------------------

FLAGS = hnp.arrays(np.bool_, (12, 3))


@given(
    reward=hnp.arrays(np.float32, (12, 3), elements=st.floats(-100, 100, width=32)),
    done=FLAGS,
    valid=FLAGS,
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
@settings(max_examples=50)
def test_the_scale_is_that_of_the_discounted_returns_of_each_environment(
    reward, done, valid, gamma
):
    scaler = RewardScaler(gamma)
    seen = []
    for r, d, v in zip(reward, done, valid, strict=True):
        assert scaler.observe(r, d & v, v)
    for column in range(3):
        total = 0.0
        for r, d, v in zip(reward[:, column], done[:, column], valid[:, column], strict=True):
            if v:
                total = gamma * total + float(r)
                seen.append(total)
                total = 0.0 if d else total
    deviation, size = (np.std(seen), np.abs(seen).max()) if seen else (0.0, 0.0)
    if deviation > 1e-6 * size:
        assert scaler.scale == pytest.approx(1.0 / deviation, rel=1e-5)
    elif deviation < 1e-9 * size or not size:
        assert scaler.scale == 1.0


def test_a_reward_that_is_not_finite_is_refused_unless_its_row_is_invalid():
    scaler, spared = RewardScaler(0.9), RewardScaler(0.9)
    done, valid = np.array([False, True]), np.array([True, True])
    for part in (scaler, spared):
        part.observe(np.array([1.0, 2.0]), done, valid)
    assert not scaler.observe(np.array([np.nan, 1.0]), done, valid)
    for name, value in scaler.state_dict().items():
        np.testing.assert_array_equal(value, spared.state_dict()[name])
    assert scaler.observe(np.array([np.nan, 1.0]), done & False, np.array([False, True]))
    assert np.isfinite(scaler.returns).all()


@pytest.mark.parametrize("size", [1e-12, 1e-5, 1.0, 1e9])
def test_rewards_of_any_size_come_to_the_same(size):
    scaler, rng = RewardScaler(0.9), np.random.default_rng(0)
    for _ in range(2000):
        reward = (size * rng.standard_normal(3)).astype(np.float32)
        scaler.observe(reward, np.ones(3, bool), np.ones(3, bool))
    assert scaler.scale * size == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("reward", [0.0, 1e-12, 0.1, 1.0, -1e9])
def test_rewards_stay_as_they_are_while_the_returns_vary_by_rounding_alone(reward):
    scaler, rng = RewardScaler(0.9), np.random.default_rng(0)
    for _ in range(500):
        rounded = reward * (1 + 1e-8 * rng.standard_normal(3))
        scaler.observe(rounded.astype(np.float32), np.ones(3, bool), np.ones(3, bool))
    assert scaler.scale == 1.0


def test_an_episode_that_ended_or_was_cut_leaves_nothing_to_the_next():
    scaler = RewardScaler(0.9)
    nothing, everywhere = np.zeros(2, bool), np.ones(2, bool)
    scaler.observe(np.array([5.0, 5.0]), nothing, everywhere)
    scaler.observe(np.array([np.nan, 5.0]), np.array([False, True]), everywhere)  # refused
    np.testing.assert_array_equal(scaler.returns, [5.0, 0.0])
    scaler.cut(np.array([True, False]))
    np.testing.assert_array_equal(scaler.returns, [0.0, 0.0])
