"""Rules of what an agent is fed: observations, rewards, the ends of episodes."""

from __future__ import annotations

import math

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History
from agents.doctor.rules.advice import clip_reward, explore, lower_lr, normalize_reward
from agents.doctor.statistics import STATISTICS


def non_finite(h: History) -> Evidence | None:
    """Steps were skipped because the loss or its gradient was not finite."""
    for learner, (at, own) in h.rows.items():
        bad = own["skipped"] > 0
        if bad.any():
            where = next((str(w) for w in own.get("nonfinite", []) if w), "unknown")
            skipped, made = float(own["skipped"].sum()), float(own["update"][-1])
            return Evidence(
                f"{skipped:.0f} of {skipped + made:.0f} updates of {learner} were not finite and "
                f"were left out; the first at step {at[bad][0]:,.0f}: {where}.",
                (
                    Advice("look for NaN or infinity in what the environment gives: obs, reward"),
                    Advice("take the step again: python scripts/examine.py RUN --replay"),
                    *lower_lr(h, learner, 10.0, "if it is finite: the weights have run away"),
                ),
                "skipped_share",
                learner,
                float(at[bad][0]),
                severity(skipped / (skipped + made), 1e-4),
                {"skipped": skipped, "updates": made},
            )
    return None


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
