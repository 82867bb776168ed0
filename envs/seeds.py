"""Seeds of environments that are stepped together, as Gymnasium's vector API takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Seeds = int | Sequence[int | None] | None


def spread(seed: Seeds, count: int) -> list[int | None]:
    """A seed for each of `count` environments: `seed + i`, or the i-th of several.

    None stands for one by chance. Raises ValueError where there are not `count` of them.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(count)]
    if len(seed) != count:
        raise ValueError(f"there are {len(seed)} seeds: give {count}, or one")
    return [None if its is None else int(its) for its in seed]
