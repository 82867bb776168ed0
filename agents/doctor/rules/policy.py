"""Rules of a policy: how certain it is, what it does, how far a round moves it."""

from __future__ import annotations

import math

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History
from agents.doctor.rules.advice import explore, lower_lr, rounded
from agents.doctor.rules.reading import FEWEST_ROWS, flat
from agents.doctor.statistics import STATISTICS

USUAL_KL = 0.02
"""How far one round of updates usually moves a policy, in nats."""


def entropy_collapse(h: History) -> Evidence | None:
    """The policy is certain early on, and the return has not earned it."""
    for learner in h.learners:
        ratio = h.series("entropy_ratio", learner)
        limit = STATISTICS["entropy_ratio"].low
        if len(ratio.values) < FEWEST_ROWS or ratio.middle() > limit:
            continue
        began = ratio.began(ratio.values < limit)
        if began > 0.5 * h.steps or not flat(h):
            continue
        size = ratio.middle()
        return Evidence(
            f"The policy's entropy is {size:.1%} of the largest possible since step {began:,.0f}, "
            "and the return has not risen since: it became certain before it had learned.",
            (
                *(tuple(explore(h)) or (Advice("explore more"),)),
                *lower_lr(h, learner, 3.0, "so that it does not rush"),
                Advice("check the scale of the rewards"),
            ),
            "entropy_ratio",
            learner,
            began,
            severity(max(size, 1e-4), limit),
            {"entropy_ratio": size},
        )
    return None


def constant_action(h: History) -> Evidence | None:
    """The agent, exploring, does the same all the time."""
    for learner in h.learners:
        for name, what in (
            ("action_saturation", "of the actions' components are at a bound"),
            ("action_top", "of the actions are the same one"),
        ):
            share = h.series(name, learner)
            limit = STATISTICS[name].high
            if len(share.values) < FEWEST_ROWS or share.middle() < limit:
                continue
            if name == "action_top" and h.series("entropy_ratio", learner):
                continue  # of a policy that is certain the entropy tells, and whether it may be
            return Evidence(
                f"{share.middle():.0%} {what}: whatever it sees, it does the same.",
                (
                    *explore(h),
                    *lower_lr(h, learner, 10.0, "the policy's outputs have run away"),
                ),
                name,
                learner,
                share.began(share.values > limit),
                share.middle(),
                {name: share.middle()},
            )
    return None


def too_many_epochs(h: History) -> Evidence | None:
    """One round of updates moves the policy too far from the one that acted."""
    for learner in h.learners:
        kl, cut = h.series("kl", learner), h.series("clip_fraction", learner)
        if len(kl.values) < FEWEST_ROWS:
            continue
        # A policy that was thrown off and is certain now moves no more.
        early = kl.early()
        size = max(kl.middle(), float(np.median(early)) / 2, float(early.max()) / 10)
        if size < STATISTICS["kl"].high:
            continue
        most, epochs, advice = h.setting("max_kl"), h.setting("epochs"), []
        if most:  # one step a round; epochs and learning rate are the value's
            epochs = None
            shorter = rounded(most * USUAL_KL / size)
            advice.append(Advice("makes a shorter step", "agent.max_kl", shorter))
        else:
            if epochs and epochs > 1:
                # The divergence grows as the square of the way, and that with the passes.
                fewer = max(1, min(10, round(epochs * math.sqrt(USUAL_KL / size))))
                advice.append(Advice("makes fewer passes", "agent.epochs", fewer))
            advice.append(Advice("or end a round where it has moved", "agent.target_kl", USUAL_KL))
            advice.extend(lower_lr(h, learner, 3.0, "or smaller steps"))
        return Evidence(
            f"A round of updates moves the policy by a KL divergence of {size:.2g} nats "
            f"({USUAL_KL} is usual)"
            + (f" and {cut.middle():.0%} of the ratios are beyond the clip" if cut else "")
            + (f", in {epochs} epochs." if epochs else "."),
            tuple(advice),
            "kl",
            learner,
            float(kl.at[np.argmax(kl.values > STATISTICS["kl"].high)]),
            severity(size, STATISTICS["kl"].high),
            {"kl": size} | ({"clip_fraction": cut.middle()} if cut else {}),
        )
    return None
