"""What rules read from a history, beside its statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agents.doctor.history import History, part_of

FEWEST_ROWS = 8
"""Rows of a statistic below which nothing is concluded from it."""
FIRST_RATIO = 1e-2
"""The usual update / weight of Adam's first steps, which are its longest, since gradients agree
where weights have not moved; PPO and DQN with their presets for CartPole begin with 6e-3 and
1.1e-2."""
FIRST_TOO_FAR = 0.1
"""The same, from which on a first step may throw a network off."""
RISEN = 0.8
"""How often a late return beats an early one, at least, where it has risen (calibrated)."""
RISEN_MEAN = 0.98
"""The same of the means of evaluations, which scatter less (calibrated)."""


def flat(h: History) -> bool:
    """Whether the return has not risen from that of the first episodes.

    That is, whether neither a late episode beats one of the first `RISEN` of the time (Mann &
    Whitney 1947), which no outlier decides, nor a late evaluation a mean of as many of the first
    `RISEN_MEAN` of the time.
    """
    first = h.untrained
    if len(h.trained.values) < 20 or not len(first):
        return False
    each = int(np.median(h.evaluations.get("episodes", [1])))
    means = np.random.default_rng(0).choice(first, (200, each)).mean(1)
    return (
        _beats(h.trained.values, first) < RISEN and _beats(h.evaluated.values, means) < RISEN_MEAN
    )


def _beats(curve: np.ndarray, first: np.ndarray) -> float:
    """How often a return of the last fifth of a curve beats one of the first; 0 without any.

    Where a fifth is fewer than three, the last three count, but none of the first half, in which
    little was learned yet.
    """
    late = curve[-max(1, min(3, len(curve) // 2), len(curve) // 5) :, None]
    return float(np.mean((late > first) + 0.5 * (late == first))) if len(late) else 0.0


def moved(h: History, learner: str, part: str) -> float:
    """Update / weight at first of the median layer of a part of the network; nan without such.

    At first, for what has learned all that there is comes to rest.
    """
    layers = h.layers.get(learner)
    names = [name for name in layers.names if part_of(name) == part] if layers else []
    ratios = [np.median(h.layer(learner, name, "update_ratio").early()) for name in names]
    return float(np.median(ratios or [math.nan]))


def setting_of(h: History, learner: str, name: str) -> Any:
    """A setting as this learner has it."""
    return h.setting(h.path(learner, name))


def field_of(h: History, learner: str, name: str) -> str:
    """What advice calls a setting of this learner."""
    return f"agent.{h.path(learner, name)}"


def critic_of(h: History) -> str:
    """The learner that values are learned by: the one that is called so, or the only one."""
    named = [name for name in h.learners if name in ("critic", "value")]
    return (named or h.learners or [""])[0]


def lr_of(h: History, learner: str) -> float:
    """Its learning rate; 0 for one that has none, as a trust region's policy."""
    searched = learner == "policy" and h.setting("max_kl") is not None
    return 0.0 if searched else setting_of(h, learner, "optim.lr") or 0.0


def first_step(h: History, learner: str) -> tuple[float, float]:
    """What a first step of Adam's kind moves of the widest layer, and that layer's weight norm.

    An orthogonal square layer of n units and gain √2 has √(2n); a step of lr for each of its n²
    weights is n lr long. 0 where it cannot be told.
    """
    units = max(setting_of(h, learner, "network.hidden_sizes") or (0,))
    if not units or setting_of(h, learner, "optim.optimizer") not in ("adam", "adamw", "rmsprop"):
        return 0.0, 0.0
    usual = math.sqrt(2 * units)
    return units * lr_of(h, learner) / usual, usual
