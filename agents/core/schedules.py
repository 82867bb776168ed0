"""Schedules: how a learning rate or an exploration rate changes over training. Pure functions."""

from __future__ import annotations

import math


def linear(progress: float, start: float, end: float) -> float:
    """From `start` to `end` while `progress` goes from 0 to 1, and `end` after that."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def cosine(progress: float, start: float, end: float) -> float:
    """Half a cosine from `start` to `end` (Loshchilov & Hutter 2017, without restarts)."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def cyclical(progress: float, low: float, high: float) -> float:
    """A triangle wave from `low` to `high` and back for every 1.0 of progress (Smith 2017)."""
    phase = progress % 1.0
    return low + (high - low) * (1.0 - abs(2.0 * phase - 1.0))


def warm_up(step: int, steps: int) -> float:
    """A factor that rises linearly from 1/steps to 1 over the first `steps` steps."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0
