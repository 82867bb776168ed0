"""Rules of how far and which way updates go."""

from __future__ import annotations

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History, Series
from agents.doctor.rules.advice import limit_norm, lower_lr, rounded
from agents.doctor.rules.reading import (
    FEWEST_ROWS,
    FIRST_RATIO,
    FIRST_TOO_FAR,
    field_of,
    first_step,
    flat,
    lr_of,
    setting_of,
)
from agents.doctor.statistics import STATISTICS

USUAL_RATIO = 1e-3
"""The usual update / weight (Karpathy 2015; common practice since)."""
CUT = 500.0
"""Times its limit that a gradient is long in the median, before the limit sets the step; healthy
runs of PPO on CartPole come to 300 (calibrated)."""


def lr_too_high(h: History) -> Evidence | None:
    """Updates that move the weights by a large part of themselves, or did until they had run away.

    A network that was thrown far off moves little afterwards: its gradients are 0, or its weights
    so large that a step is small beside them. So the first step that Adam's kind takes, about the
    learning rate for each weight, counts too, where the weights have in fact run away.
    """
    for learner in h.learners:
        ratio, norm = h.series("update_ratio", learner), h.series("weight_norm", learner)
        limit = STATISTICS["update_ratio"].high
        if len(ratio.values) < FEWEST_ROWS or not lr_of(h, learner):
            continue
        size = max(ratio.middle(), float(np.median(ratio.early())) / 3)
        first, usual = first_step(h, learner)
        grown = float(np.median(norm.values)) / usual if usual else 0.0
        if size > limit:
            because = (
                f"An update of {learner} moves the median layer by {size:.1%} of its weights; "
                f"{USUAL_RATIO:.1%} is usual."
            )
            factor = size / USUAL_RATIO
        elif first > FIRST_TOO_FAR and (grown > 2.5 or ratio.values[0] > limit / 3):
            because = (
                f"At a learning rate of {lr_of(h, learner):g} a first step moves weights by "
                f"{first:.0%} of themselves, and those of {learner} have run away: its largest "
                f"layer is {grown:.1f} times as long as it began."
            )
            size, factor = first, first / FIRST_RATIO
        else:
            continue
        return Evidence(
            because,
            lower_lr(h, learner, factor, "which brings updates to the usual size"),
            "update_ratio",
            learner,
            float(ratio.at[0]) if first > FIRST_TOO_FAR else ratio.began(ratio.values > limit / 3),
            severity(size, limit),
            {"update_ratio": size, "weights_grown": grown},
        )
    return None


def lr_too_low(h: History) -> Evidence | None:
    """Updates that hardly move the weights, from the start."""
    for learner in h.learners:
        ratio = h.series("update_ratio", learner)
        limit = STATISTICS["update_ratio"].low
        if len(ratio.values) < FEWEST_ROWS or not lr_of(h, learner):
            continue
        size = float(np.median(ratio.early()))
        silent = h.series("zero_fraction", learner)  # no gradient is another thing
        if size < limit and float(np.median(silent.early())) < 0.9:
            # Where the weights have not moved, every step is like a first one.
            lr = lr_of(h, learner) * min(FIRST_RATIO / max(size, 1e-12), 1e5)
            field = field_of(h, learner, "optim.lr")
            return Evidence(
                f"An update of {learner} moves the median layer by {size:.1e} of its weights; "
                f"{USUAL_RATIO:.0e} is usual, and at this pace nothing is learned.",
                (Advice("which brings updates to the usual size", field, rounded(lr)),),
                "update_ratio",
                learner,
                ratio.began(ratio.values < limit),
                severity(max(size, 1e-12), limit),
                {"update_ratio": size},
            )
    return None


def clip_sets_step(h: History) -> Evidence | None:
    """Every gradient is cut, and to a small part of its length."""
    for learner in h.learners:
        limit = setting_of(h, learner, "optim.max_grad_norm")
        share, norm = h.series("clipped_share", learner), h.series("grad_norm", learner)
        if limit is None or len(share.values) < FEWEST_ROWS or not norm:
            continue
        excess = float(np.median(norm.late())) / limit
        if np.median(share.values) > 0.98 and share.middle() > 0.98 and excess > CUT:
            value = rounded(float(np.median(norm.late())) * 2)
            return Evidence(
                f"{share.middle():.0%} of the gradients of {learner} are cut, to 1/{excess:.0f} of "
                f"their length in the median: the limit {limit:g} sets the step, not the learning "
                "rate.",
                (
                    Advice(
                        "which cuts only what is unusual",
                        field_of(h, learner, "optim.max_grad_norm"),
                        value,
                    ),
                ),
                "clipped_share",
                learner,
                share.began(share.values > 0.98),
                severity(excess, CUT),
                {"grad_norm": excess * limit, "max_grad_norm": limit},
            )
    return None


def exploding(h: History) -> Evidence | None:
    """Gradients that grow by orders of magnitude over the run, or from layer to layer."""
    for learner in h.learners:
        norm, largest = h.series("grad_norm", learner), h.series("grad_norm_max", learner)
        if len(norm.values) < FEWEST_ROWS:
            continue
        grown = float(np.median(norm.late()) / max(np.median(norm.early()), 1e-12))
        spike = float(largest.values.max() / max(np.median(norm.values), 1e-12))
        # What a term's weight adds to the length is no explosion.
        top = float(np.median(norm.values)) / max(1.0, h.setting("value_weight") or 1.0)
        if top > 1e4 or (grown > 1e3 and np.median(norm.late()) > 10) or spike > 1e4:
            wrong = largest.values >= 0.1 * largest.values.max()
            return Evidence(
                f"The gradient of {learner} is {top:.3g} long in the median and {spike:.3g} times "
                f"that at its largest; from the start of the run it grew {grown:.3g}-fold.",
                (
                    *limit_norm(h, learner, top),
                    Advice(
                        "keep activations near 1", field_of(h, learner, "network.norm"), "layer"
                    ),
                    *lower_lr(h, learner, 10.0, "if it still grows"),
                ),
                "grad_norm_max",
                learner,
                float(largest.at[np.flatnonzero(wrong)[0]]),
                severity(max(grown / 1e3, spike / 1e4, top / 1e4, 1.0), 1.0),
                {"grad_norm": top, "spike": spike, "grown": grown},
            )
    return None


def vanishing(h: History) -> Evidence | None:
    """The gradient of the first layers is a vanishing part of that of the last."""
    for learner, layers in h.layers.items():
        parts: dict[str, list[str]] = {}
        for name in layers.names:
            stem, _, depth = name.rpartition(".")
            if depth.isdigit():
                parts.setdefault(stem, []).append(name)
        for names in parts.values():
            if len(names) < 2:
                continue
            first = h.layer(learner, names[0], "grad_norm")
            last = h.layer(learner, names[-1], "grad_norm")
            if len(first.values) < FEWEST_ROWS or len(first.values) != len(last.values):
                continue
            ratio = Series(first.at, first.values / np.maximum(last.values, 1e-30))
            # Where it comes to after all, the time before that is lost.
            size = float(min(np.median(ratio.values), np.median(ratio.early())))
            if size < 1e-2 and np.median(last.values) > 0:
                network = field_of(h, learner, "network")
                return Evidence(
                    f"The gradient of {learner}'s {names[0]} is {size:.1e} of that of {names[-1]}: "
                    f"on its way through {len(names)} layers it vanishes.",
                    (
                        Advice("does not flatten", f"{network}.activation", "relu"),
                        Advice("or keep activations near 1", f"{network}.norm", "layer"),
                        Advice("or fewer layers", f"{network}.hidden_sizes", (64, 64)),
                    ),
                    "grad_norm",
                    learner,
                    ratio.began(ratio.values < 1e-2),
                    severity(size, 1e-2),
                    {"first_to_last": size, "layers": len(names)},
                )
    return None


def noise(h: History) -> Evidence | None:
    """Adam's moments say that successive gradients have nothing in common."""
    for learner in h.learners:
        snr, cosine = h.series("snr", learner), h.series("cosine", learner)
        if len(snr.values) < FEWEST_ROWS or not cosine:
            continue
        size, along = float(np.median(snr.values)), float(np.median(cosine.values))
        momentum = (setting_of(h, learner, "optim.betas") or (0.9,))[0]
        floor = (1 - momentum) / (1 + momentum)  # what independent noise gives
        if size < 1.2 * floor and abs(along) < 0.1 and flat(h):
            batch = h.setting("batch_size")
            return Evidence(
                f"The signal to noise of {learner}'s updates is {size:.3f}, where pure noise gives "
                f"{floor:.3f}, and successive gradients have a cosine of {along:.2f}: the "
                "updates go nowhere.",
                (
                    Advice("averages more of it out", "agent.batch_size", int(batch) * 4)
                    if batch
                    else Advice("use larger batches"),
                    Advice("look whether the reward depends on what the agent does"),
                ),
                "snr",
                learner,
                snr.began(snr.values < 1.3 * floor),
                0.5,
                {"snr": size, "cosine": along},
            )
    return None
