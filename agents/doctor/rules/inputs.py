"""Rules of what an agent is fed: observations, rewards, the ends of episodes."""

from __future__ import annotations

import math

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History
from agents.doctor.rules.advice import clip_reward, explore, lower_lr, normalize_reward
from agents.doctor.rules.reading import FIRST_RATIO, FIRST_TOO_FAR, first_step
from agents.doctor.statistics import STATISTICS


def non_finite(h: History) -> Evidence | None:
    """Steps were skipped because the loss or its gradient was not finite."""
    failing = [name for name in h.learners if h.rows[name][1]["skipped"].any()]
    if not failing:
        return None
    failing.sort(key=lambda name: _failed(h, name))
    counts = {name: _skipped_and_tried(h, name) for name in failing}
    parts = [f"{bad:.0f} of {tried:.0f} updates of {name}" for name, (bad, tried) in counts.items()]
    first = failing[0]
    at, own = h.rows[first]
    skipped, tried = counts[first]
    row = np.argmax(own["skipped"] > 0)
    where = next((str(w) for w in own.get("nonfinite", []) if w), "unknown")
    fast, factor = _at_fault(h, first)
    return Evidence(
        f"{' and '.join(parts)} were not finite and were left out; the first by step "
        f"{own['step'][row]:,.0f}: {where}.",
        (
            Advice("look for NaN or infinity in what the environment gives: obs, reward"),
            Advice("take the step again: python scripts/examine.py RUN --replay"),
            *lower_lr(h, fast, factor, f"if it is finite: the weights of {fast} have run away"),
        ),
        "skipped_share",
        first,
        float(at[row]),
        severity(skipped / tried, 1e-4),
        {"skipped": skipped, "updates": tried - skipped},
    )


def _skipped_and_tried(h: History, learner: str) -> tuple[float, float]:
    """How many updates of a learner were left out, and of how many."""
    own = h.rows[learner][1]
    skipped = float(own["skipped"].sum())
    return skipped, skipped + float(own["update"][-1])


def _failed(h: History, learner: str) -> tuple[float, float]:
    """What learners are ordered by: the end of the interval in which their first update failed.

    In the same one, first whose updates failed more often: what fails mostly goes on to.
    """
    own, share = h.rows[learner][1], h.series("skipped_share", learner).values
    row = np.argmax(share > 0)
    return float(own["step"][row]), -float(share[row])


def _at_fault(h: History, failing: str) -> tuple[str, float]:
    """Whose learning rate to lower if what it is fed is finite, and by which factor.

    The learner whose first step moves its weights farthest, where that is too far: the losses of
    others are made of its outputs, and may fail before its own does. Else the one that failed.
    """
    moves = {name: first_step(h, name)[0] for name in h.learners}
    farthest = max(moves, key=moves.__getitem__)
    if moves[farthest] > FIRST_TOO_FAR:
        return farthest, moves[farthest] / FIRST_RATIO
    return failing, 10.0


def observations(h: History) -> Evidence | None:
    """Observations of a scale that a network cannot read, which nothing brings to one."""
    if h.setting("normalize_obs"):
        return None
    for learner in h.learners:
        large, small = h.series("obs_std_max", learner), h.series("obs_std_min", learner)
        most, least = STATISTICS["obs_std_max"].high, STATISTICS["obs_std_min"].low
        if large and large.middle() > most:
            name, series, limit = "obs_std_max", large, most
        elif small and 0 < small.middle() < least:
            name, series, limit = "obs_std_min", small, least
        else:
            continue
        wrong = series.values > limit if name == "obs_std_max" else series.values < limit
        return Evidence(
            f"One dimension of the observations has a standard deviation of {series.middle():.3g}; "
            "a network reads numbers near 1.",
            (Advice("bring them to variance 1", "agent.normalize_obs", True),),
            name,
            learner,
            series.began(wrong),
            severity(series.middle(), limit),
            {name: series.middle()},
        )
    return None


def constant_observations(h: History) -> Evidence | None:
    """Most of what is observed never changes."""
    for learner in h.learners:
        series = h.series("obs_constant", learner)
        if series and series.middle() > STATISTICS["obs_constant"].high:
            return Evidence(
                f"{series.middle():.0%} of the observation's dimensions never changed: the agent "
                "cannot tell its states apart.",
                (Advice("look at what the environment gives as its observation"),),
                "obs_constant",
                learner,
                float(series.at[0]),
                series.middle(),
                {"obs_constant": series.middle()},
            )
    return None


def reward_scale(h: History) -> Evidence | None:
    """Rewards, as the agent learns from them, of a scale that its losses are not made for."""
    for learner in h.learners:
        series = h.series("reward_max", learner)
        low, high = STATISTICS["reward_max"].low, STATISTICS["reward_max"].high
        size = float(series.values[-1]) if series else math.nan
        if size > high or 0 < size < low:
            what = "large" if size > high else "small"
            return Evidence(
                f"The largest reward that is learned from is {size:.3g}: too {what} for losses and "
                "step sizes that are made for rewards near 1.",
                (
                    *normalize_reward(h, "divide rewards by their spread"),
                    *clip_reward(h, "or learn from their signs"),
                ),
                "reward_max",
                learner,
                float(series.at[0]),
                severity(size, high if size > high else low),
                {"reward_max": size},
            )
    return None


def no_reward(h: History) -> Evidence | None:
    """No reward other than 0 was ever seen."""
    for learner in h.learners:
        series = h.series("reward_max", learner)
        if series and series.values[-1] == 0:
            return Evidence(
                "No reward other than 0 was seen: there is nothing to learn from yet.",
                (
                    Advice("explore more, or shape the reward; check that the task pays any"),
                    *explore(h),
                ),
                "reward_max",
                learner,
                float(series.at[0]),
                1.0,
            )
    return None


def truncation(h: History) -> Evidence | None:
    """Episodes pile up at one greatest length and are said to have been ended by the task."""
    lengths, cut = h.episodes.get("length"), h.episodes.get("truncated")
    if lengths is None or cut is None or len(lengths) < 10:
        return None
    longest = lengths.max()
    share = float(np.mean(lengths == longest))
    limits = longest >= 50 and longest % 10 == 0
    if limits and share > 0.05 and np.sum(lengths == longest) >= 5 and not cut.any():
        return Evidence(
            f"{share:.0%} of the episodes have the same greatest length, {longest:.0f}, as under a "
            "time limit, and yet all were reported as terminated: their last states are learned as "
            "worthless, rightly only if the task itself ends there.",
            (
                Advice(
                    "report a time limit as truncated, not terminated: gymnasium's TimeLimit does"
                ),
            ),
            "",
            "",
            float(h.episodes["step"][lengths == longest][0]),
            0.5 + 0.5 * share,
            {"length": float(longest), "share": share},
        )
    return None
