"""Spaces at the agent's boundary: every observation and action becomes one flat vector, and back.

An observation is stored compactly (a Discrete one is its index) and expanded to features
(one-hot) only inside the network, so that a memory of a 500-state task holds one column, not 500.
An image keeps its bytes in the same way and is scaled to [0, 1] inside the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

EXACT = 2.0**24
"""Up to here float32 knows every whole number: a wider range of them is no range to act in."""
CATEGORY = "whole numbers in its range"
"""What an observation of categories is made of."""


class Image(NamedTuple):
    """The form of an image observation."""

    channels: int
    height: int
    width: int
    channels_last: bool
    """`(H, W, C)`, as MinAtar and cameras give it; else `(C, H, W)`, as a stack of frames is."""

    def unflatten(self, flat: Tensor) -> Tensor:
        """Flat images `(B, size)` as `(B, C, H, W)`."""
        channels, height, width, last = self
        if last:
            # Contiguous, for vmap cannot clone what lies otherwise, as a group_norm would.
            return flat.unflatten(-1, (height, width, channels)).movedim(-1, -3).contiguous()
        return flat.unflatten(-1, (channels, height, width))


class Observations:
    """How the observations of a space are stored as vectors and read as features.

    Supports Box, Discrete, MultiDiscrete, MultiBinary and flat Dict and Tuple spaces of these.
    Raises ValueError for any other space, and for one in which there is nothing to see.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.parts = parts_of(space)
        columns = [categories for part in self.parts for categories in _columns(part)]
        self.size = len(columns)
        """Columns of a stored observation."""
        if not self.size:
            raise ValueError(
                f"observation space {space} is empty: give one with a number or a choice in it, "
                "such as a constant where there is nothing to see"
            )
        self.features = sum(categories or 1 for categories in columns)
        """Features the network reads."""
        self.numeric = np.array([not categories for categories in columns])
        """Which columns are quantities (and may be normalised) rather than categories."""
        self.mask: slice | None = None
        """The columns of a Dict's `action_mask`, in which 1 is for an action that is allowed."""
        if isinstance(space, spaces.Dict) and "action_mask" in space.spaces:
            self.mask = self.columns_of("action_mask")
            if not self.numeric[self.mask].all():
                part = space["action_mask"]
                raise ValueError(f"action_mask is {part}: use a MultiBinary or a Box of 0 and 1")
            self.numeric[self.mask] = False
        highs = {_highest_byte(part) for part in self.parts}
        self.dtype: Any = np.float32 if len(highs) > 1 or None in highs else np.uint8
        """Purely uint8 or bool observations are kept as uint8, in a quarter of the memory."""
        self.scale = 1.0 / (highs.pop() or 1) if self.dtype == np.uint8 else 1.0
        """What stored bytes are multiplied by, so that the network reads numbers up to 1."""
        self.image = image_of(space)
        """The form of the image, if the observation is one."""
        self._runs = _runs(columns)
        self._flat = isinstance(space, spaces.Box) and len(space.shape) == 1

    def columns_of(self, name: str) -> slice:
        """Where the part of this name lies in a stored observation of a Dict space."""
        assert isinstance(self.space, spaces.Dict)
        before = list(self.space.spaces).index(name)
        sizes = [len(_columns(part)) for part in self.parts[: before + 1]]
        return slice(sum(sizes[:-1]), sum(sizes))

    def part(self, name: str, stored: np.ndarray) -> np.ndarray:
        """The part of this name of a Dict space, from its stored columns `(..., columns)`."""
        assert isinstance(self.space, spaces.Dict)
        part = self.space[name]
        value = stored.reshape(*stored.shape[:-1], *(part.shape or ())).astype(part.dtype)
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            value = value + part.start
        return value

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

    def check(self, obs: Any) -> None:
        """Raise ValueError for values that `flatten` would make others of, which no environment
        gives: half a category, an image that was scaled; and for parts that are not of equally many
        observations. Not for every step.
        """
        leads = []
        for part, value in zip(self.parts, _values(self.space, obs), strict=True):
            array = _array(part, value)
            leads.append(array.shape[: array.ndim - len(part.shape or ())])
            if _highest_byte(part) is not None:
                right = array.dtype.kind in "bui" and not ((array < 0) | (array > 255)).any()
                what = "the bytes that the environment gives, which the network scales"
            elif isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
                right, what = not (array % 1 != 0).any(), CATEGORY
            else:
                continue
            if not right:
                raise _misfit(array, part, what)
        if len(set(leads)) > 1:
            names = self.space if isinstance(self.space, spaces.Dict) else range(len(leads))
            given = ", ".join(f"{name} {lead}" for name, lead in zip(names, leads, strict=True))
            raise ValueError(
                f"the parts of the observation have other leading axes each, {given}: give one "
                "observation, or equally many of each part"
            )

    def _flatten_part(self, part: spaces.Space[Any], value: Any) -> np.ndarray:
        array = _array(part, value)
        shape = part.shape or ()
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            count = part.n if isinstance(part, spaces.Discrete) else part.nvec
            index = array - part.start
            if ((index < 0) | (index >= count)).any():
                raise _misfit(array, part, CATEGORY)
            array = index
        if len(shape) != 1:
            array = array.reshape(*array.shape[: array.ndim - len(shape)], -1)
        return np.ascontiguousarray(array, self.dtype)

    def expand(self, flat: Tensor) -> Tensor:
        """Stored observations `(..., size)` as float32 features `(..., features)`.

        Bytes are scaled to [0, 1]. What a normaliser has made of them is float and stays as it is.
        """
        if len(self._runs) == 1 and not self._runs[0][2]:
            if flat.dtype is torch.float32:
                return flat
            features = flat.to(torch.float32)
            return features * self.scale if flat.dtype == torch.uint8 else features
        pieces = []
        for start, stop, categories in self._runs:
            column = flat[..., start:stop]
            if categories:  # == instead of F.one_hot: no check of the values on the host
                column = column == torch.arange(categories, device=flat.device)
            pieces.append(column.to(torch.float32))
        return torch.cat(pieces, dim=-1)


def _misfit(array: np.ndarray, part: spaces.Space[Any], what: str) -> ValueError:
    at = f"{array.min():g} to {array.max():g}" if array.size > 1 else f"{array}"
    return ValueError(f"an observation of {array.dtype} {at} does not fit {part}: use {what}")


def parts_of(space: spaces.Space[Any]) -> list[spaces.Space[Any]]:
    """The parts of a Dict or a Tuple, in their order; of any other space the space itself."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else [space]


def alike(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Whether observations of both are stored and read alike: bounds of numbers do not matter."""
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape and _highest_byte(one) == _highest_byte(other)
    if isinstance(one, spaces.Dict) and isinstance(other, spaces.Dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, spaces.Tuple) and isinstance(other, spaces.Tuple):
        return len(one) == len(other) and all(map(alike, one.spaces, other.spaces))
    return bool(one == other)


def _values(space: spaces.Space[Any], value: Any) -> list[Any]:
    """What a value of the space has for each of its parts. Raises ValueError if it is no such."""
    if isinstance(space, spaces.Dict):
        if isinstance(value, Mapping) and all(key in value for key in space.spaces):
            return [value[key] for key in space.spaces]
        raise ValueError(f"{_named(value)} does not fit {space}: expected a dict with its keys")
    if isinstance(space, spaces.Tuple):
        if isinstance(value, tuple | list) and len(value) == len(space.spaces):
            return list(value)
        raise ValueError(
            f"{_named(value)} does not fit {space}: expected a tuple of {len(space.spaces)}"
        )
    return [value]


def _array(part: spaces.Space[Any], value: Any) -> np.ndarray:
    """One of those values, `(..., *shape)`. Raises ValueError if it does not have the shape."""
    shape = part.shape or ()
    try:
        array = np.asarray(value)
        fits = (
            array.dtype.kind in "biuf" and array.shape[max(0, array.ndim - len(shape)) :] == shape
        )
    except ValueError:  # of parts of several lengths
        fits = False
    if not fits:
        right = ", ".join(["...", *map(str, shape)])
        raise ValueError(
            f"{_named(value)} does not fit {part}: expected numbers of shape ({right})"
        )
    return array


def _named(value: Any) -> str:
    """What was given in place of an observation or an action, in words."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        return "what env.reset() gives, (observation, info),"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return f"a {type(value).__name__}"


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


def _highest_byte(space: spaces.Space[Any]) -> int | None:
    """The highest value of a space whose values fit in a byte: 255 for pixels, 1 for bool."""
    if isinstance(space, spaces.Box) and space.dtype in (np.uint8, np.bool_):
        return int(np.max(space.high, initial=0))
    return None


def bytes_of_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is of images that are not scaled yet."""
    return image_of(space) is not None and _highest_byte(space) is not None


def image_of(space: spaces.Space[Any]) -> Image | None:
    """Which axis of a Box with three is the channels: the first if it is shorter than the last."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return None
    first, middle, last = space.shape
    if first < last:
        return Image(first, middle, last, channels_last=False)
    return Image(last, first, middle, channels_last=True)


def is_stack(space: spaces.Space[Any], frames: int) -> bool:
    """Whether a space can be of stacks of so many frames, as FrameStackObservation makes them.

    That is one array whose first axis has so many entries, all with the same bounds.
    """
    if not space.shape or space.shape[0] != frames:
        return False
    bounds: tuple[Any, ...] = ()
    if isinstance(space, spaces.Box):
        bounds = space.low, space.high
    elif isinstance(space, spaces.MultiDiscrete):
        bounds = space.nvec, space.start
    return all((bound == bound[:1]).all() for bound in bounds)


def _runs(columns: list[int]) -> list[tuple[int, int, int]]:
    """Neighbouring quantities as one slice, each category by itself: (start, stop, categories)."""
    runs: list[tuple[int, int, int]] = []
    for i, categories in enumerate(columns):
        if runs and not categories and not runs[-1][2]:
            runs[-1] = (runs[-1][0], i + 1, 0)
        else:
            runs.append((i, i + 1, categories))
    return runs


class Actions:
    """How the actions of a space are stored as vectors, and given back in its own structure.

    A Discrete action is stored as its index from 0; others as vectors `(columns,)`, whole numbers
    where all parts are, else float32. A number with finite bounds is stored as it lies between
    them, from -1 to 1, so that agents need not know its unit; one without is stored as it is. The
    bounds of whole numbers are half a unit further out: each is then as much of the range.
    Supports what a policy does, see `policy_for`. Raises ValueError where there is nothing to
    decide.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.parts = parts = parts_of(space)
        sizes = [math.prod(part.shape or ()) for part in parts]
        if not sum(sizes):
            raise ValueError(f"action space {space} is empty: there is nothing to decide")
        self.shape = () if isinstance(space, spaces.Discrete) else (sum(sizes),)
        """Of a stored action."""
        numbers = any(isinstance(part, spaces.Box) for part in parts)
        self.dtype: Any = np.float32 if numbers else np.int64
        self._stops = np.cumsum(sizes)[:-1]
        ranges = [_range(part) for part in parts]
        self._middle, self._half, self.bounded = map(np.concatenate, zip(*ranges, strict=True))
        self._placed = bool((self._middle != 0).any() or (self._half != 1).any())

    def flatten(self, action: Any) -> np.ndarray:
        """A batch of actions `(N, ...)` as they are stored, `(N, *shape)`."""
        values = _values(self.space, action)
        columns = [
            (np.asarray(value) - _start(part)).astype(self.dtype)
            for part, value in zip(self.parts, values, strict=True)
        ]
        if not self.shape:
            return columns[0]
        stored = np.concatenate([c.reshape(len(c), -1) for c in columns], axis=-1)
        return (stored - self._middle) / self._half if self._placed else stored

    def unflatten(self, stored: np.ndarray, fit: bool = False) -> Any:
        """Stored actions `(..., *shape)` in the space's structure, each array `(..., *its own)`.

        With `fit` numbers are rounded where only whole ones fit, and clipped to their bounds, and
        all have the space's dtypes.
        """
        if not self.shape:
            return stored + _start(self.space)
        if self._placed:
            stored = self._middle + self._half * stored
        lead = stored.shape[:-1]
        values = []
        pieces = np.split(stored, self._stops, axis=-1) if len(self.parts) > 1 else [stored]
        for part, piece in zip(self.parts, pieces, strict=True):
            value = piece.reshape((*lead, *(part.shape or ())))
            if not isinstance(part, spaces.Box):
                value = value.astype(part.dtype) + _start(part)
            elif fit:
                value = np.rint(value) if _whole(part) else value
                value = np.clip(value, part.low, part.high).astype(part.dtype)
            values.append(value[()])
        if isinstance(self.space, spaces.Dict):
            return dict(zip(self.space.spaces, values, strict=True))
        return tuple(values) if isinstance(self.space, spaces.Tuple) else values[0]


def _range(part: spaces.Space[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each number of a part: its middle, half its width, and whether it has finite bounds.

    One without keeps its unit: its middle is 0, and half its width 1.
    """
    if not isinstance(part, spaces.Box):
        size = math.prod(part.shape or ())
        return np.zeros(size, np.float32), np.ones(size, np.float32), np.zeros(size, bool)
    with np.errstate(over="ignore"):  # the largest numbers there are stand for no bounds
        low, high = (x.reshape(-1).astype(np.float32) for x in (part.low, part.high))
        width = high - low
    most = EXACT if _whole(part) else np.finfo(np.float32).max
    bounded, edge = (width > 0) & (width <= most), 0.5 * _whole(part)
    low, half = np.where(bounded, low - edge, -1), np.where(bounded, width / 2 + edge, 1)
    return (low + half).astype(np.float32), half.astype(np.float32), bounded


def _whole(part: spaces.Box) -> bool:
    """Whether a Box is of whole numbers."""
    return part.dtype.kind != "f"


def _start(space: spaces.Space[Any]) -> Any:
    """What a space counts from."""
    return space.start if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else 0
