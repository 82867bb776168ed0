"""SumTree: draws places in proportion to their weights (Schaul et al. 2016, appendix B.2.1).

There a node has two children and every draw walks down by itself. Here many draws walk together,
one NumPy call for all of them, and a node has eight children, so that there are fewer calls.
"""

from __future__ import annotations

import numpy as np

WIDTH = 8
"""Children of a node: as many comparisons as fit a 64-bit word, whose bits are counted at once."""
WIDEST = 2048
"""Nodes at the top, where a search starts. A cumulative sum over so many takes about as long as one
step down."""


class SumTree:
    """Weights of `capacity` places, 0 at first, and sums of eight, of sixty-four… of them.

    `levels[0]` holds the weights; each number of `levels[i + 1]` is the sum of eight neighbours in
    `levels[i]`, added from left to right. `before[i]` holds for each number in `levels[i]` the sum
    of its neighbours to the left among these eight. The last level is the top.
    """

    def __init__(self, capacity: int) -> None:
        self.levels: list[np.ndarray] = []
        self.before: list[np.ndarray] = []
        count = capacity
        while count > WIDEST:
            groups = -(-count // WIDTH)
            self.levels.append(np.zeros(groups * WIDTH))
            self.before.append(np.zeros(groups * WIDTH))
            count = groups
        self.levels.append(np.zeros(count))

    @property
    def weights(self) -> np.ndarray:
        """The weight of each place, and zeros up to a multiple of eight."""
        return self.levels[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(array.nbytes for array in (*self.levels, *self.before))

    def set(self, index: np.ndarray, weight: np.ndarray | float) -> None:
        """Give these places these weights; of a place given twice the last one counts."""
        self.levels[0][index] = weight
        for level, before in enumerate(self.before):
            index = index >> 3
            sums = self.levels[level].reshape(-1, WIDTH).take(index, axis=0).cumsum(axis=1)
            before.reshape(-1, WIDTH)[index, 1:] = sums[:, :-1]
            self.levels[level + 1][index] = sums[:, -1]

    def set_range(self, start: int, stop: int, weight: np.ndarray | float) -> None:
        """The same for the places from `start` to before `stop`, quicker."""
        self.levels[0][start:stop] = weight
        for level, before in enumerate(self.before):
            start, stop = start >> 3, ((stop - 1) >> 3) + 1
            sums = self.levels[level].reshape(-1, WIDTH)[start:stop].cumsum(axis=1)
            before.reshape(-1, WIDTH)[start:stop, 1:] = sums[:, :-1]
            self.levels[level + 1][start:stop] = sums[:, -1]

    def find(self, share: np.ndarray) -> np.ndarray:
        """A place for each of `(B,)` shares in [0, 1): where the sum of the weights up to there,
        over that of all, exceeds the share. A place of weight 0 is never one of them.

        Raises ValueError when every weight is 0.
        """
        top = self.levels[-1]
        sums = top.cumsum()
        total = sums[-1]
        if not total > 0:
            raise ValueError("every weight of the sum tree is 0: there is nothing to draw")
        mass = np.minimum(share * total, np.nextafter(total, 0.0))
        node = sums.searchsorted(mass, side="right")
        mass -= sums.take(node)
        mass += top.take(node)
        np.maximum(mass, 0.0, out=mass)  # the two roundings differ
        for before in self.before[::-1]:
            reached = before.reshape(-1, WIDTH).take(node, axis=0) <= mass[:, None]  # (B, 8)
            node = node << 3
            node += np.bitwise_count(reached.view(np.uint64)[:, 0])  # at least 1
            node -= 1
            mass -= before.take(node)
        empty = np.flatnonzero(self.weights.take(node) == 0)
        for i in empty:  # a rounding led past the last weight among eight neighbours
            node[i] = np.flatnonzero(self.weights[: node[i]])[-1]
        return node

    def rebuild(self, weights: np.ndarray) -> None:
        """Give all places these weights."""
        self.set_range(0, len(weights), weights)
