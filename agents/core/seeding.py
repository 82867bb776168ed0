"""Random streams: one for each purpose, all derived from one seed.

Streams are kept apart so that drawing from one (an extra evaluation, another log line) never
shifts another: the weights at the end of a run do not depend on what was watched meanwhile.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str) -> np.random.Generator:
    """The generator for one purpose ("init", "exploration", ...) of a run with this seed.

    Raises ValueError for a seed that is no whole number from 0 on.
    """
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}: use a whole number, 0 or more")
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def derived(seed: int, purpose: str) -> int:
    """A seed in [0, 2^31) for code that wants an integer, such as `env.reset(seed=...)`."""
    return int(stream(seed, purpose).integers(2**31))
