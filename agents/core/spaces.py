"""Spaces at the agent's boundary: every observation becomes one flat vector and back to features.

An observation is stored compactly (a Discrete one is its index) and expanded to features
(one-hot) only inside the network, so that a memory of a 500-state task holds one column, not 500.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor


class Observations:
    """How the observations of a space are stored as vectors and read as features.

    Supports Box, Discrete, MultiDiscrete, MultiBinary and flat Dict and Tuple spaces of these.
    Raises ValueError for any other space.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.parts = _parts(space)
        columns = [categories for part in self.parts for categories in _columns(part)]
        self.size = len(columns)
        """Columns of a stored observation."""
        self.features = sum(categories or 1 for categories in columns)
        """Features the network reads."""
        self.numeric = np.array([not categories for categories in columns])
        """Which columns are quantities (and may be normalised) rather than categories."""
        self.dtype: Any = np.uint8 if all(_is_image(part) for part in self.parts) else np.float32
        """A purely uint8 observation stays uint8: it takes a quarter of the memory."""
        self._runs = _runs(columns)
        self._flat = isinstance(space, spaces.Box) and len(space.shape) == 1

    def flatten(self, obs: Any) -> np.ndarray:
        """One observation, or a batch of them with any leading axes, as `(..., size)`.

        Raises ValueError when the observation does not have the space's shape.
        """
        if isinstance(self.space, spaces.Box):
            if self._flat and type(obs) is np.ndarray and obs.shape[-1:] == self.space.shape:
                return np.ascontiguousarray(obs, self.dtype)  # what every step of a run takes
            return self._flatten_part(self.space, obs)
        values = _values(self.space, obs)
        flat = [self._flatten_part(part, v) for part, v in zip(self.parts, values, strict=True)]
        return flat[0] if len(flat) == 1 else np.concatenate(flat, axis=-1)

    def _flatten_part(self, part: spaces.Space[Any], value: Any) -> np.ndarray:
        array = np.asarray(value)
        shape = part.shape or ()
        lead = array.ndim - len(shape)
        if lead < 0 or array.shape[lead:] != shape:
            raise ValueError(
                f"an observation of shape {array.shape} does not fit {part}: "
                f"expected (..., {', '.join(map(str, shape))})"
            )
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            array = array - part.start
        if len(shape) != 1:
            array = array.reshape(*array.shape[:lead], -1)
        return np.ascontiguousarray(array, self.dtype)

    def is_batch(self, obs: Any) -> bool:
        """Whether `obs` has leading axes before the shape of the space."""
        part, value = self.parts[0], _values(self.space, obs)[0]
        return np.ndim(value) > len(part.shape or ())

    def expand(self, flat: Tensor) -> Tensor:
        """Stored observations `(..., size)` as float32 features `(..., features)`."""
        if len(self._runs) == 1 and not self._runs[0][2]:
            return flat if flat.dtype is torch.float32 else flat.to(torch.float32)
        pieces = []
        for start, stop, categories in self._runs:
            column = flat[..., start:stop]
            if categories:  # == instead of F.one_hot: no check of the values on the host
                column = column == torch.arange(categories, device=flat.device)
            pieces.append(column.to(torch.float32))
        return torch.cat(pieces, dim=-1)


def _parts(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.values())
    elif isinstance(space, spaces.Tuple):
        parts = list(space.spaces)
    else:
        parts = [space]
    for part in parts:
        _columns(part)  # raises on what is not supported
    return parts


def _values(space: spaces.Space[Any], obs: Any) -> list[Any]:
    if isinstance(space, spaces.Dict):
        return [obs[key] for key in space.spaces]
    if isinstance(space, spaces.Tuple):
        return list(obs)
    return [obs]


def _columns(space: spaces.Space[Any]) -> list[int]:
    """For each stored column the number of its categories, 0 for a quantity."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.reshape(-1)]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [0] * int(np.prod(space.shape))
    raise ValueError(
        f"observation space {space} is not supported: use Box, Discrete, MultiDiscrete, "
        "MultiBinary or a flat Dict or Tuple of these (see gymnasium.wrappers.FlattenObservation)"
    )


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8


def _runs(columns: list[int]) -> list[tuple[int, int, int]]:
    """Neighbouring quantities as one slice, each category by itself: (start, stop, categories)."""
    runs: list[tuple[int, int, int]] = []
    for i, categories in enumerate(columns):
        if runs and not categories and not runs[-1][2]:
            runs[-1] = (runs[-1][0], i + 1, 0)
        else:
            runs.append((i, i + 1, categories))
    return runs
