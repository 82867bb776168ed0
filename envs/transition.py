"""Transition: the one record that crosses every boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of experience, or any number of them, as arrays with common leading axes.

    An environment gives NumPy arrays with the leading axis `(N,)`, a memory gives tensors with
    `(T, N)` or `(B,)`. Observations and actions carry the axes of their space behind these.
    """

    obs: Any
    """What the agent saw."""
    action: Any
    """What the agent did."""
    reward: Any
    """What it got for it."""
    next_obs: Any
    """The true successor of `obs`, never the first observation of the next episode."""
    terminated: Any
    """The task ended in `next_obs`: nothing follows, its value is zero."""
    truncated: Any
    """The episode was cut off in `next_obs`: more would have followed, its value counts."""
    valid: Any
    """False where a vector environment spent the step on resetting itself: no transition."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What an actor wants kept with a step (the state of a recurrent network)."""
    steps: Any = 1
    """How many steps `next_obs` lies ahead; `reward` is their discounted sum."""

    @property
    def done(self) -> Any:
        """Where the episode ended, for whatever reason: a trace is cut here."""
        return self.terminated | self.truncated

    @property
    def over(self) -> Any:
        """Where the next step is of another episode: after an end, or a step spent on a reset."""
        return self.terminated | self.truncated | ~self.valid

    def discount(self, gamma: float) -> Any:
        """What the value of `next_obs` is multiplied by: γ^steps, or 0 after a termination."""
        return gamma**self.steps * ~self.terminated
