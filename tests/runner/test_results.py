"""Statistics over runs, against SciPy and against what is known in closed form."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from agents.runner.results import (
    Run,
    area_under_curve,
    bootstrap_interval,
    common_grid,
    grouped,
    interpolate,
    iqm,
    read_run,
    read_table,
)

scores = hnp.arrays(float, st.integers(1, 40), elements=st.floats(-1e3, 1e3))


@given(scores)
def test_iqm_is_the_mean_trimmed_by_a_quarter(values: np.ndarray) -> None:
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_iqm_takes_any_axis() -> None:
    values = np.random.default_rng(0).normal(size=(3, 9, 4))
    np.testing.assert_allclose(iqm(values, axis=1), stats.trim_mean(values, 0.25, axis=1))


def test_iqm_ignores_an_outlier_at_either_end() -> None:
    assert iqm([-1e9, 1.0, 2.0, 3.0, 1e9]) == 2.0


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, size=12)
    ours = bootstrap_interval(values, statistic=np.mean, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    samples = np.random.default_rng(3).normal(5.0, 1.0, size=(400, 20))
    covered = 0
    for sample in samples:
        low, high = bootstrap_interval(sample, statistic=np.mean, resamples=500)
        covered += low <= 5.0 <= high
    assert 0.88 <= covered / len(samples) <= 0.99  # the percentile method is a little narrow


def test_bootstrap_is_deterministic_and_ordered() -> None:
    values = np.random.default_rng(4).normal(size=(6, 30))
    low, high = bootstrap_interval(values)
    assert low.shape == high.shape == (30,)
    assert np.all(low <= high)
    np.testing.assert_array_equal((low, high), bootstrap_interval(values))


def test_bootstrap_resamples_within_each_stratum() -> None:
    # Strata that do not vary leave nothing to chance, however far apart they lie. Pooled before
    # resampling, they would.
    assert bootstrap_interval(np.full(5, 0.0), np.full(5, 10.0), statistic=np.mean) == (5.0, 5.0)
    low, high = bootstrap_interval(np.repeat([0.0, 10.0], 5), statistic=np.mean)
    assert low < 5.0 < high


def test_bootstrap_of_one_seed_is_unknown() -> None:
    assert np.isnan(bootstrap_interval([500.0])).all()


def test_interpolation_is_linear_and_never_extrapolates() -> None:
    values = interpolate(
        np.array([0.0, 10.0, 15.0, 20.0, 30.0]), np.array([10.0, 20.0]), np.array([1.0, 3.0])
    )
    np.testing.assert_array_equal(values, [np.nan, 1.0, 2.0, 3.0, np.nan])


def test_common_grid_is_where_all_curves_are_defined() -> None:
    grid = common_grid([[0, 50, 100], [10, 80]], points=8)
    np.testing.assert_allclose(grid, np.arange(10, 81, 10))
    with pytest.raises(ValueError, match="no range of steps in common"):
        common_grid([[0, 10], [20, 30]])


def test_area_under_curve() -> None:
    assert area_under_curve([0, 10], [0.0, 1.0]) == 0.5
    assert area_under_curve([0, 30, 40], [2.0, 2.0, 2.0]) == 2.0
    assert area_under_curve([7], [3.0]) == 3.0


def test_table_keeps_text_and_leaves_out_a_line_that_is_still_written(tmp_path: Path) -> None:
    path = tmp_path / "updates.csv"
    path.write_text("step,learner,loss,snr\n8,policy,0.5,\n16,value,nan,0.1\n24,pol")
    table = read_table(path, ("step", "learner"))
    assert table["learner"].tolist() == ["policy", "value"]
    np.testing.assert_array_equal(table["step"], [8.0, 16.0])
    np.testing.assert_array_equal(table["snr"], [np.nan, 0.1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("step,loss\n", "empty"),
        ("loss\n1\n", "no column step"),
        ("step,loss\n1,2\n3\n", "does not fit the header"),
        ("step,loss\n1,2,3\n", "does not fit the header"),
        ("step,loss\n1,much\n", "does not fit the header"),
    ],
)
def test_bad_table_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "updates.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path, ("step",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def labels(*settings: dict[str, Any]) -> list[str]:
    """Of runs with these settings, each with another seed."""
    groups = grouped([Run(Path(), "a", "E-v1", i, 0, 1, own) for i, own in enumerate(settings)])
    return [label for (_, label), members in groups.items() for _ in members]


def test_what_is_learned_alike_is_told_apart_by_bookkeeping_only_where_nothing_else_does() -> None:
    kept = {"checkpoint_every": 10, "eval_every": 5, "threads": 1}
    given = {"steps": 100, **kept, "config": {"gamma": 0.5}}
    longer = given | {"steps": 200, "checkpoint_every": 20, "eval_every": 0}
    other = given | {"config": {"gamma": 0.9}, "threads": 2}
    assert labels(given, given) == ["a", "a"]
    assert labels(given, longer, other) == [
        *("a, steps=100, gamma=0.5", "a, steps=200, gamma=0.5", "a, steps=100, gamma=0.9"),
    ]
    assert labels(given, given | {"eval_every": 6}) == ["a, eval_every=5", "a, eval_every=6"]
    assert labels(given, longer, longer | {"threads": 2}) == [
        *("a, steps=100, threads=1", "a, steps=200, threads=1", "a, steps=200, threads=2"),
    ]


def test_run_knows_what_it_is(tmp_path: Path) -> None:
    config = {"agent": "ppo", "env": "CartPole-v1", "seed": 3, "steps": 100, "num_envs": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = read_run(tmp_path)
    assert (run.agent, run.env, run.seed) == ("ppo", "CartPole-v1", 3)
    assert (run.steps, run.num_envs, run.config) == (100, 8, config)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a run's folder"),
        ("{", "unreadable"),
        ("[]", "unreadable"),
        ("[]", r"unreadable \(a run's settings have names, this is a list\)"),
        ('{"agent": "ppo", "env": "CartPole-v1"}', "no 'seed' in it"),
        ('{"agent": "a", "env": "E-v1", "seed": 1, "steps": "x", "num_envs": 8}', "steps is 'x'"),
        ('{"agent": "a", "env": "E-v1", "seed": 1, "steps": 9, "num_envs": []}', "num_envs is"),
        ('{"agent": "a", "env": "E-v1", "seed": 1, "num_envs": 8}', "no 'steps' in it"),
    ],
)
def test_folder_that_is_no_run_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        read_run(tmp_path / "elsewhere")
