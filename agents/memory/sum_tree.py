"""SumTree: draws places in proportion to their weights (Schaul et al. 2016, appendix B.2.1)."""

from __future__ import annotations

import numpy as np

WIDEST = 1024
"""Nodes of the level that a search starts in. One cumulative sum over so many takes less time than
the ten levels of NumPy calls above it would."""


class SumTree:
    """Weights of `capacity` places, 0 at first, with every node the sum of its two children.

    `nodes[i]` has the children `nodes[2 i]` and `nodes[2 i + 1]`; the second half are the leaves.
    The sums end with a level of at most `WIDEST` nodes, whose first is `nodes[self.top]`.
    """

    def __init__(self, capacity: int) -> None:
        self.size = 1 << (capacity - 1).bit_length()
        self.top = min(self.size, WIDEST)
        self.depth = (self.size // self.top).bit_length() - 1
        self.nodes = np.zeros(2 * self.size)

    @property
    def leaves(self) -> np.ndarray:
        """The weights, and zeros up to a power of two."""
        return self.nodes[self.size :]

    def set(self, index: np.ndarray, weight: np.ndarray | float) -> None:
        """Give these places these weights; of a place given twice the last one counts."""
        nodes, node = self.nodes, index + self.size
        nodes[node] = weight
        for _ in range(self.depth):
            node = node >> 1
            left = node << 1
            nodes[node] = nodes.take(left) + nodes.take(left + 1)

    def set_range(self, start: int, stop: int, weight: np.ndarray | float) -> None:
        """The same for the places from `start` to before `stop`, quicker."""
        nodes, first, last = self.nodes, start + self.size, stop - 1 + self.size
        nodes[first : last + 1] = weight
        for _ in range(self.depth):
            first, last = first >> 1, last >> 1
            children = nodes[2 * first : 2 * last + 2]
            nodes[first : last + 1] = children[::2] + children[1::2]

    def stratified(self, share: np.ndarray) -> np.ndarray:
        """A place for each of `(B,)` shares in [0, 1): where the sum of the weights before it,
        over that of all, reaches the share. A place of weight 0 is never one of them.

        Raises ValueError when every weight is 0.
        """
        nodes = self.nodes
        sums = nodes[self.top : 2 * self.top].cumsum()
        total = sums[-1]
        if not total > 0:
            raise ValueError("every weight of the sum tree is 0: there is nothing to draw")
        mass = np.minimum(share * total, np.nextafter(total, 0.0))
        node = sums.searchsorted(mass, side="right")
        mass -= sums.take(node)
        node += self.top
        mass += nodes.take(node)
        np.maximum(mass, 0.0, out=mass)  # the two roundings differ
        for _ in range(self.depth):
            node = node << 1
            left = nodes.take(node)
            right = mass >= left
            mass -= left * right
            node += right
        empty = nodes.take(node) == 0  # a rounding led past the last weight of a branch
        if empty.any():
            for i in np.flatnonzero(empty):
                node[i] = self.size + np.flatnonzero(nodes[self.size : node[i]])[-1]
        return node - self.size

    def rebuild(self, weights: np.ndarray) -> None:
        """Give the first places these weights and all others 0."""
        self.nodes[:] = 0.0
        if len(weights):
            self.set_range(0, len(weights), weights)
