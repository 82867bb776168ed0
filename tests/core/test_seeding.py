"""A stream depends on its seed and its purpose, and on nothing else."""

import itertools

from agents.core.seeding import derived, stream


def test_streams_repeat_and_are_kept_apart():
    keys = list(itertools.product((0, 1, 2**40), ("init", "exploration", "update")))
    draws = {key: tuple(stream(*key).integers(2**62, size=3).tolist()) for key in keys}
    assert len(set(draws.values())) == len(keys)
    other = stream(0, "exploration")
    other.random(100)
    assert draws == {key: tuple(stream(*key).integers(2**62, size=3).tolist()) for key in keys}


def test_derived_seeds_are_what_environments_take():
    seeds = [derived(seed, "environment") for seed in range(100)]
    assert len(set(seeds)) == 100
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert seeds[3] == derived(3, "environment")
