"""What rules advise, more than one of them: each only where the agent has the setting."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from agents.doctor.finding import Advice
from agents.doctor.history import History
from agents.doctor.rules.reading import field_of, lr_of, setting_of

TARGET_RESTS = 100
"""Updates after which a target network is brought up to date; 100 to 250 are usual here."""


def lower_lr(h: History, learner: str, factor: float, why: str) -> tuple[Advice, ...]:
    """The learning rate divided by about `factor`, of a learner that has one."""
    lr = lr_of(h, learner)
    return (Advice(why, field_of(h, learner, "optim.lr"), rounded(lr / factor)),) if lr else ()


def limit_norm(h: History, learner: str, norm: float) -> Iterator[Advice]:
    """A limit to the gradient, which is `norm` long, of a learner that has none."""
    if setting_of(h, learner, "optim.max_grad_norm") is None:
        limit = 0.5 if norm < 1e4 else 1.0
        yield Advice("cuts what is too long", field_of(h, learner, "optim.max_grad_norm"), limit)


def explore(h: History) -> Iterator[Advice]:
    """More or longer exploration, by what the agent explores with."""
    if (weight := h.setting("entropy_weight")) is not None:
        yield Advice("keeps it trying", "agent.entropy_weight", max(0.01, rounded(3 * weight)))
    elif h.setting("exploration") == "boltzmann":
        warmer = rounded(3 * h.setting("temperature"))
        yield Advice("draws actions more evenly", "agent.temperature", warmer)
    elif (steps := h.setting("epsilon_steps")) is not None and not h.setting("network.noisy"):
        longer = int(max(2 * steps, (h.config.get("steps") or 0) // 2))
        yield Advice("tries longer", "agent.epsilon_steps", longer)


def steady_target(h: History) -> Iterator[Advice]:
    """What keeps a bootstrapped value from feeding on itself."""
    if h.setting("double") is False and not h.setting("munchausen"):  # which excludes it
        yield Advice("chooses and values by two networks", "agent.double", True)
    every = h.setting("target_every")
    if every is not None and every < TARGET_RESTS / 2 and h.setting("tau") in (None, 1.0):
        yield Advice("lets the target rest", "agent.target_every", TARGET_RESTS)
    yield from normalize_reward(h, "makes values small")


def normalize_reward(h: History, why: str) -> Iterator[Advice]:
    """Rewards divided by their spread, unless they are clipped, which excludes it."""
    if not h.setting("clip_reward"):
        yield Advice(why, "agent.normalize_reward", True)


def clip_reward(h: History, why: str) -> Iterator[Advice]:
    """The signs of rewards, unless they are normalised, which excludes it."""
    if not h.setting("normalize_reward"):
        yield Advice(why, "agent.clip_reward", True)


def often(h: History, updates: float) -> int:
    """After how many updates to move the target: those of a rollout where it learns from such.

    From a replay all of the way, or the part of it that τ says.
    """
    if rollout := h.setting("rollout_size"):
        return int(max(1, updates * rollout // h.steps))
    tau = h.setting("tau") or 1.0
    return int(max(1, tau * min(TARGET_RESTS, updates // 20)))


def rounded(value: Any) -> float:
    """To one significant digit, of 1, 2, 3 or 5."""
    value = max(float(value), 1e-12)
    scale = 10.0 ** math.floor(math.log10(value))
    digit = min((1.0, 2.0, 3.0, 5.0, 10.0), key=lambda d: abs(math.log(d * scale / value)))
    return float(f"{digit * scale:.1e}")
