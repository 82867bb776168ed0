"""What the minibatches of a rollout are made of: single rows, or sequences for who remembers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.core.recurrent import History
from envs.transition import Transition


def samples(
    batch: Transition, columns: Sequence[Tensor], length: int | None = None
) -> Rows | Sequences:
    """A rollout's valid rows, for losses that read observations and these `columns` `(T, N, ...)`.

    Sequences, of `length` steps at the most, where the rollout knows what state each row began in.
    """
    return Sequences(batch, columns, length) if "state" in batch.extras else Rows(batch, columns)


class Rows:
    """Observations `(B, size)` and columns `(B, ...)`: each row stands for itself."""

    def __init__(self, batch: Transition, columns: Sequence[Tensor]) -> None:
        self.columns = [x[batch.valid] for x in (batch.obs, *columns)]

    def __len__(self) -> int:
        return len(self.columns[0])

    def whole(self) -> list[Any]:
        """Everything at once."""
        return self.columns

    def shuffled(self, count: int, rng: np.random.Generator) -> Iterator[Sequence[Any]]:
        """`count` minibatches of nearly equal size, each row in one of them."""
        order = torch.from_numpy(rng.permutation(len(self))).to(self.columns[0].device)
        yield from zip(*(x[order].tensor_split(count) for x in self.columns), strict=True)


class Sequences:
    """A `History` in the place of observations, and columns `(B, ...)` for the rows it gives out.

    A sequence is what one environment went through, or a stretch of it: one of nearly equal ones,
    from the state it began in when it was acted. Rows that are no transitions are read as zeros,
    and not given out.
    """

    def __init__(
        self, batch: Transition, columns: Sequence[Tensor], length: int | None = None
    ) -> None:
        steps = len(batch.reward)
        stretches = math.ceil(steps / (length or steps))
        start = torch.cat([torch.zeros_like(batch.over[:1]), batch.over[:-1]])
        obs = batch.obs.masked_fill(~batch.valid.unsqueeze(-1), 0)
        valid = _folded(batch.valid, stretches)
        some = valid.any(0)

        def fold(x: Tensor) -> Tensor:
            return _folded(x, stretches)[:, some]

        self.valid, self.obs, self.start = valid[:, some], fold(obs), fold(start)
        self.state = fold(batch.extras["state"])[0]
        self.columns = [fold(x) for x in columns]

    def __len__(self) -> int:
        return int(self.valid.sum())

    def whole(self) -> list[Any]:
        """Everything at once."""
        return self._of(torch.arange(len(self.state), device=self.state.device))

    def shuffled(self, count: int, rng: np.random.Generator) -> Iterator[Sequence[Any]]:
        """`count` minibatches of nearly as many sequences, or one for each sequence."""
        order = torch.from_numpy(rng.permutation(len(self.state))).to(self.state.device)
        for which in order.tensor_split(min(count, len(order))):
            yield self._of(which)

    def _of(self, which: Tensor) -> list[Any]:
        rows = self.valid[:, which].flatten().nonzero().squeeze(-1)
        history = History(self.obs[:, which], self.state[which], self.start[:, which], rows)
        return [history, *(x[:, which].flatten(0, 1)[rows] for x in self.columns)]


def _folded(x: Tensor, stretches: int) -> Tensor:
    """`(T, N, ...)` cut along T into stretches laid side by side, `(L, stretches N, ...)`.

    What is missing at the end is zeros, or False.
    """
    length = math.ceil(len(x) / stretches)
    missing = x.new_zeros(length * stretches - len(x), *x.shape[1:])
    return torch.cat([x, missing]).unflatten(0, (stretches, length)).movedim(0, 1).flatten(1, 2)
