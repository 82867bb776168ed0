"""Rules of what becomes of a network's units."""

from __future__ import annotations

import numpy as np

from agents.doctor.finding import Advice, Evidence
from agents.doctor.history import History, Series
from agents.doctor.rules.advice import lower_lr
from agents.doctor.rules.reading import FEWEST_ROWS, field_of, setting_of

DEAD = 0.75
"""Share of a layer's units that are dormant and without a gradient (calibrated)."""


def dead_units(h: History) -> Evidence | None:
    """Most units of a layer are silent, from early on."""
    return _dormant(h, rising=False)


def plasticity(h: History) -> Evidence | None:
    """Units fall silent while it trains."""
    return _dormant(h, rising=True)


def _dormant(h: History, rising: bool) -> Evidence | None:
    for learner in h.learners:
        layers = h.layers.get(learner)
        if layers is None or "dormant" not in layers.columns:
            continue
        shares = layers.columns["dormant"].copy()
        if not any(setting_of(h, learner, f"optim.{penalty}") for penalty in ("l1", "l2")):
            # A unit that is only quiet still has a gradient; with a penalty, which is a part of the
            # gradient, a dead one has too.
            shares = np.fmin(shares, layers.columns["zero_fraction"])
        shares[~np.isfinite(layers.columns["dormant"])] = -1.0  # of a head, which has no units
        at = int(np.median(shares[:, shares.shape[1] // 2 :], axis=1).argmax())
        share, worst = Series(layers.at, shares[at]), layers.names[at]
        if len(share.values) < FEWEST_ROWS:
            continue
        early, late = float(np.median(share.early())), share.middle()
        if late < DEAD or rising != (early < 0.8 * late):
            continue
        network = field_of(h, learner, "network")
        what = (
            f"rose from {early:.0%} to {late:.0%}: it loses its capacity to learn"
            if rising
            else f"is {late:.0%}, and was {early:.0%} early on: they never woke up"
        )
        return Evidence(
            f"The share of dead units in {learner}'s {worst} {what}.",
            (
                Advice("keeps units in range", f"{network}.norm", "layer"),
                Advice("or a unit that cannot die", f"{network}.activation", "tanh"),
                *lower_lr(h, learner, 3.0, "or smaller steps"),
            ),
            "dormant",
            learner,
            share.began(share.values > 0.6),
            late,
            {"dormant_early": early, "dormant": late},
        )
    return None
