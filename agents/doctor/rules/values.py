"""Rules of values: their size, their fit, their gradient beside the policy's."""

from __future__ import annotations

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History, Series
from agents.doctor.rules.advice import lower_lr, normalize_reward, often, rounded, steady_target
from agents.doctor.rules.reading import FEWEST_ROWS, critic_of, flat, moved
from agents.doctor.statistics import STATISTICS

DROWNED = 1000.0
"""Times the policy's gradient that the value's is; healthy runs with one clip come to 500, as long
as Adam makes good for it (calibrated)."""


def overestimation(h: History) -> Evidence | None:
    """Values beyond what the rewards can ever add up to, or that grow without end."""
    # A soft value, SAC's or a relative's, counts the entropy to come as rewards: where these are
    # small it is some times beyond their bound and beyond every return, and nothing is wrong.
    soft = h.setting("initial_temperature") is not None
    most = 100.0 if soft else 1.5
    for learner in h.learners:
        value, bound = h.series("value_max", learner), h.series("value_bound", learner)
        if len(value.values) < FEWEST_ROWS or not bound or not bound.values[-1] > 0:
            continue
        limit = np.interp(value.at, bound.at, bound.values)
        rewarded = limit > 0  # before the first reward anything is beyond it
        excess = np.divide(value.values, limit, where=rewarded, out=np.zeros(len(limit)))
        size = float(np.median(excess[len(excess) // 2 :]))
        if size > most:
            wrong = excess > most
            return Evidence(
                f"The largest value of {learner} is {value.middle():.3g}, {size:.2g} times what "
                f"rewards of at most {bound.values[-1] * (1 - (h.setting('gamma') or 0)):.3g} can "
                "add up to: values feed on themselves.",
                (
                    *steady_target(h),
                    *lower_lr(h, learner, 10.0, "so that they do not run away"),
                    Advice("check terminated and truncated, and the discount", "agent.gamma", 0.99)
                    if (h.setting("gamma") or 0) > 0.99
                    else Advice("check that terminated is reported"),
                ),
                "value_max",
                learner,
                value.began(wrong),
                severity(size, most),
                {"value_max": value.middle(), "value_bound": float(bound.values[-1])},
            )
    estimate, truth = h.evaluations.get("value_estimate"), h.evaluations.get("discounted_return")
    if estimate is None or truth is None or soft:
        return None
    known = np.isfinite(estimate) & np.isfinite(truth)
    estimate, truth, at = estimate[known], truth[known], h.evaluations["step"][known]
    if len(estimate) < FEWEST_ROWS:
        return None
    half = len(estimate) // 2
    scale = float(np.median(np.abs(truth[half:]))) + float(np.std(truth)) + 1e-6
    gap = float(np.median((estimate - truth)[half:])) / scale
    if gap > 1.5:
        return Evidence(
            f"The agent expects {np.median(estimate[half:]):.3g} at the start of an episode and "
            f"gets {np.median(truth[half:]):.3g}, discounted: it over-estimates.",
            (*steady_target(h), *lower_lr(h, critic_of(h), 3.0, "so that errors average out")),
            "",
            "",
            Series(at, estimate).began((estimate - truth) > 1.5 * scale),
            severity(gap, 1.5),
            {"value_estimate": float(np.median(estimate[half:]))},
        )
    return None


def support(h: History) -> Evidence | None:
    """Returns beyond the ends of a histogram of returns, where they are all one."""
    low, high = h.setting("v_min"), h.setting("v_max")
    returns = h.evaluations.get("discounted_return", np.empty(0))
    known = np.isfinite(returns)
    if h.setting("value") not in ("categorical", "hl_gauss") or known.sum() < FEWEST_ROWS:
        return None
    returns, at = returns[known], h.evaluations["step"][known]
    slack = 0.01 * (high - low)
    beyond = np.maximum(returns - high, low - returns)
    size = float(np.median(beyond[len(beyond) // 2 :]))
    if size < slack:
        return None
    below, above = float(returns.min()), float(returns.max())
    room = 0.5 * max(abs(below), abs(above))
    advice = []
    if below < low:
        least = float(f"{below - room:.2g}")
        advice.append(Advice("makes room below", "agent.v_min", least))
    if above > high:
        largest = float(f"{above + room:.2g}")
        advice.append(Advice("makes room above", "agent.v_max", largest))
    return Evidence(
        f"Discounted returns, as they are learned from, lie between {below:.3g} and {above:.3g}, "
        f"and the histogram of values between {low:g} and {high:g}: what lies beyond an end is "
        "all alike to it.",
        tuple(advice),
        "",
        "",
        Series(at, beyond).began(beyond > slack),
        severity(size, slack),
        {"least_return": below, "largest_return": above},
    )


def critic_drowns_actor(h: History) -> Evidence | None:
    """The value's gradient takes up the clipped norm, and leaves next to none to the policy's."""
    for learner, layers in h.layers.items():
        weight = h.setting("value_weight")
        if weight is None or not {"policy.head", "value.head"} <= set(layers.names):
            continue
        share = h.series("clipped_share", learner)
        actor = h.layer(learner, "policy.head", "grad_norm")
        critic = h.layer(learner, "value.head", "grad_norm")
        if len(actor.values) < FEWEST_ROWS:
            continue
        ratio = Series(actor.at, critic.values / np.maximum(actor.values, 1e-30))
        size = float(np.median(ratio.values))
        if min(size, ratio.middle()) > DROWNED and share.middle() > 0.9:
            return Evidence(
                f"The value's gradient is {size:.0f} times the policy's, and both are cut as one: "
                "the policy moves by what the critic leaves of the norm.",
                (
                    *normalize_reward(h, "makes returns, and what is learned from them, small"),
                    Advice(
                        "weighs the critic down", "agent.value_weight", rounded(weight / size / 3)
                    ),
                    Advice("gives each a trunk", "agent.network.shared_trunk", False),
                ),
                "grad_norm",
                learner,
                ratio.began(ratio.values > DROWNED),
                severity(size, DROWNED),
                {"value_to_policy": size},
            )
    return None


def critic_not_fitting(h: History) -> Evidence | None:
    """The critic foresees nothing of the returns."""
    for learner in h.learners:
        fit = h.series("explained_variance", learner)
        if len(fit.values) < FEWEST_ROWS:
            continue
        size = fit.middle()
        estimate = h.evaluations.get("value_estimate", np.empty(0))
        truth = h.evaluations.get("discounted_return", np.empty(0))
        far = 0.0  # how far the estimates of whole episodes are off; where it is near, all is well
        if len(estimate) >= FEWEST_ROWS and np.isfinite(estimate).all():
            half = len(estimate) // 2
            far = float(
                np.median(np.abs(estimate - truth)[half:]) / (np.abs(truth[half:]).mean() + 1e-9)
            )
        # An agent may learn all the same, its advantages only noisier: that is no fault to name.
        still = moved(h, learner, "value") < STATISTICS["update_ratio"].low
        unfit = size < 0.5 if still else size < 0.05 and far > 0.5 and flat(h)
        if size < -0.5 or unfit:
            weight = h.setting("value_weight")
            advice = []
            if weight is not None and weight < 0.1:
                advice.append(Advice("lets the critic learn", "agent.value_weight", 0.5))
            advice.extend(normalize_reward(h, "brings returns near 1"))
            advice.append(Advice("look at its learning rate and its inputs"))
            return Evidence(
                f"The critic of {learner} explains {size:.0%} of the variance of the returns: "
                "advantages are as noisy as without it.",
                tuple(advice),
                "explained_variance",
                learner,
                fit.began(fit.values < 0.1),
                0.5 + 0.5 * min(1.0, max(0.0, 0.05 - size)),
                {"explained_variance": size},
            )
    return None


def target_never_moves(h: History) -> Evidence | None:
    """The target network is where it was at the start."""
    for learner in h.learners:
        distance = h.series("target_distance", learner)
        every = h.setting("target_every")
        made = float(h.rows[learner][1]["update"][-1])
        if len(distance.values) < FEWEST_ROWS or made < 200:
            continue  # too few updates are another thing
        moved = np.diff(distance.values) < -0.5 * distance.values[:-1]
        if every and every > made and not moved.any() and distance.values[-1] > 0:
            return Evidence(
                f"In {made:,.0f} updates of {learner} the target network was never brought up to "
                f"date; it is {distance.values[-1]:.0%} of the weights' length away.",
                (Advice("brings it up to date", "agent.target_every", often(h, made)),),
                "target_distance",
                learner,
                float(distance.at[0]),
                1.0,
                {"updates": made, "target_every": float(every)},
            )
    return None
