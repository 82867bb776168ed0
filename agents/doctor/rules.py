"""The rules: a condition over what a run recorded, the evidence for it, and what to change.

Each function is one condition; `RULES` gives it its name, its plain words and its weight. Nothing
here trains, draws or prints. Thresholds that the report shades too stand in `STATISTICS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from agents.doctor.finding import Advice, Evidence, Finding, Rule, severity
from agents.doctor.history import History, Series, part_of
from agents.doctor.statistics import STATISTICS

FEWEST_ROWS = 8
"""Rows of a statistic below which nothing is concluded from it."""
USUAL_RATIO = 1e-3
"""The usual update / weight (Karpathy 2015; common practice since)."""
FIRST_RATIO = 1e-2
"""The same of Adam's first steps, which are its longest, since gradients agree where weights have
not moved; PPO and DQN with their presets for CartPole begin with 6e-3 and 1.1e-2."""
USUAL_KL = 0.02
"""How far one round of updates usually moves a policy, in nats."""
TARGET_RESTS = 100
"""Updates after which a target network is brought up to date; 100 to 250 are usual here."""
CUT = 500.0
"""Times its limit that a gradient is long in the median, before the limit sets the step; healthy
runs of PPO on CartPole come to 300 (calibrated)."""
DROWNED = 1000.0
"""Times the policy's gradient that the value's is; healthy runs with one clip come to 500, as long
as Adam makes good for it (calibrated)."""
DEAD = 0.75
"""Share of a layer's units that are dormant and without a gradient (calibrated)."""
RISEN = 0.8
"""How often a late return beats an early one, at least, where it has risen (calibrated)."""
RISEN_MEAN = 0.98
"""The same of the means of evaluations, which scatter less (calibrated)."""
LOST = 0.5
"""Share of what a run had gained at its best that is gone at its end, from which on it has been
forgotten; what a healthy run of DQN loses comes back (calibrated)."""


def diagnose(history: History) -> list[Finding]:
    """What is wrong with a run, the weightiest first; nothing for a healthy one."""
    found = [
        Finding(rule, _advising(history, evidence))
        for rule in RULES
        if (evidence := rule.condition(history)) is not None
    ]
    if any(finding.rule.name != "looks_healthy" for finding in found):
        found = [finding for finding in found if finding.rule.name != "looks_healthy"]
    return sorted(found, key=lambda finding: -finding.weight)


def _advising(h: History, evidence: Evidence) -> Evidence:
    """The evidence with what its advice would change: not what the agent lacks, or has already."""
    advice = tuple(advice for advice in evidence.advice if advice.changes(h))
    none_left = Advice("the settings that help are set so already: look at what it is fed")
    return replace(evidence, advice=advice or (none_left,))


# ---------------------------------------------------------------------------------- what it is fed


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
                    *_lower_lr(h, learner, 10.0, "if it is finite: the weights have run away"),
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
                    *_normalize_reward(h, "divide rewards by their spread"),
                    *_clip_reward(h, "or learn from their signs"),
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
                    *_explore(h),
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
            "worthless.",
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


# -------------------------------------------------------------------------------- how far it steps


def lr_too_high(h: History) -> Evidence | None:
    """Updates that move the weights by a large part of themselves, or did until they had run away.

    A network that was thrown far off moves little afterwards: its gradients are 0, or its weights
    so large that a step is small beside them. So the first step that Adam's kind takes, about the
    learning rate for each weight, counts too, where the weights have in fact run away.
    """
    for learner in h.learners:
        ratio, norm = h.series("update_ratio", learner), h.series("weight_norm", learner)
        limit = STATISTICS["update_ratio"].high
        if len(ratio.values) < FEWEST_ROWS or not _lr(h, learner):
            continue
        size = max(ratio.middle(), float(np.median(ratio.early())) / 3)
        first, usual = _first_step(h, learner)
        grown = float(np.median(norm.values)) / usual if usual else 0.0
        if size > limit:
            because = (
                f"An update of {learner} moves the median layer by {size:.1%} of its weights; "
                f"{USUAL_RATIO:.1%} is usual."
            )
            factor = size / USUAL_RATIO
        elif first > 0.1 and (grown > 2.5 or ratio.values[0] > limit / 3):
            because = (
                f"At a learning rate of {_lr(h, learner):g} a first step moves weights by "
                f"{first:.0%} of themselves, and those of {learner} have run away: its largest "
                f"layer is {grown:.1f} times as long as it began."
            )
            size, factor = first, first / FIRST_RATIO
        else:
            continue
        return Evidence(
            because,
            _lower_lr(h, learner, factor, "which brings updates to the usual size"),
            "update_ratio",
            learner,
            float(ratio.at[0]) if first > 0.1 else ratio.began(ratio.values > limit / 3),
            severity(size, limit),
            {"update_ratio": size, "weights_grown": grown},
        )
    return None


def _first_step(h: History, learner: str) -> tuple[float, float]:
    """What a first step of Adam's kind moves of the widest layer, and that layer's weight norm.

    An orthogonal square layer of n units and gain √2 has √(2n); a step of lr for each of its n²
    weights is n lr long. 0 where it cannot be told.
    """
    units = max(_own(h, learner, "network.hidden_sizes") or (0,))
    if not units or _own(h, learner, "optim.optimizer") not in ("adam", "adamw", "rmsprop"):
        return 0.0, 0.0
    usual = math.sqrt(2 * units)
    return units * _lr(h, learner) / usual, usual


def lr_too_low(h: History) -> Evidence | None:
    """Updates that hardly move the weights, from the start."""
    for learner in h.learners:
        ratio = h.series("update_ratio", learner)
        limit = STATISTICS["update_ratio"].low
        if len(ratio.values) < FEWEST_ROWS or not _lr(h, learner):
            continue
        size = float(np.median(ratio.early()))
        silent = h.series("zero_fraction", learner)  # no gradient is another thing
        if size < limit and float(np.median(silent.early())) < 0.9:
            # Where the weights have not moved, every step is like a first one.
            lr = _lr(h, learner) * min(FIRST_RATIO / max(size, 1e-12), 1e5)
            field = _field(h, learner, "optim.lr")
            return Evidence(
                f"An update of {learner} moves the median layer by {size:.1e} of its weights; "
                f"{USUAL_RATIO:.0e} is usual, and at this pace nothing is learned.",
                (Advice("which brings updates to the usual size", field, _round(lr)),),
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
        limit = _own(h, learner, "optim.max_grad_norm")
        share, norm = h.series("clipped_share", learner), h.series("grad_norm", learner)
        if limit is None or len(share.values) < FEWEST_ROWS or not norm:
            continue
        excess = float(np.median(norm.late())) / limit
        if np.median(share.values) > 0.98 and share.middle() > 0.98 and excess > CUT:
            value = _round(float(np.median(norm.late())) * 2)
            return Evidence(
                f"{share.middle():.0%} of the gradients of {learner} are cut, to 1/{excess:.0f} of "
                f"their length in the median: the limit {limit:g} sets the step, not the learning "
                "rate.",
                (
                    Advice(
                        "which cuts only what is unusual",
                        _field(h, learner, "optim.max_grad_norm"),
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
                    *_limit(h, learner, top),
                    Advice("keep activations near 1", _field(h, learner, "network.norm"), "layer"),
                    *_lower_lr(h, learner, 10.0, "if it still grows"),
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
                network = _field(h, learner, "network")
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
        momentum = (_own(h, learner, "optim.betas") or (0.9,))[0]
        floor = (1 - momentum) / (1 + momentum)  # what independent noise gives
        if size < 1.2 * floor and abs(along) < 0.1 and _flat(h):
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


# ------------------------------------------------------------------------------------ its network


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
        # Of each layer the smaller share: a unit that is only quiet still has a gradient.
        shares = np.fmin(layers.columns["dormant"], layers.columns["zero_fraction"])
        shares[~np.isfinite(layers.columns["dormant"])] = -1.0  # of a head, which has no units
        at = int(np.median(shares[:, shares.shape[1] // 2 :], axis=1).argmax())
        share, worst = Series(layers.at, shares[at]), layers.names[at]
        if len(share.values) < FEWEST_ROWS:
            continue
        early, late = float(np.median(share.early())), share.middle()
        if late < DEAD or rising != (early < 0.8 * late):
            continue
        network = _field(h, learner, "network")
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
                *_lower_lr(h, learner, 3.0, "or smaller steps"),
            ),
            "dormant",
            learner,
            share.began(share.values > 0.6),
            late,
            {"dormant_early": early, "dormant": late},
        )
    return None


# ------------------------------------------------------------------------------------- its policy


def entropy_collapse(h: History) -> Evidence | None:
    """The policy is certain early on, and the return has not earned it."""
    for learner in h.learners:
        ratio = h.series("entropy_ratio", learner)
        limit = STATISTICS["entropy_ratio"].low
        if len(ratio.values) < FEWEST_ROWS or ratio.middle() > limit:
            continue
        began = ratio.began(ratio.values < limit)
        if began > 0.5 * h.steps or not _flat(h):
            continue
        weight = h.setting("entropy_weight")
        size = ratio.middle()
        return Evidence(
            f"The policy's entropy is {size:.1%} of the largest possible since step {began:,.0f}, "
            "and the return has not risen since: it became certain before it had learned.",
            (
                Advice("keeps it trying", "agent.entropy_weight", max(0.01, _round(3 * weight)))
                if weight is not None
                else Advice("explore more"),
                *_lower_lr(h, learner, 3.0, "so that it does not rush"),
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
                    *_explore(h),
                    *_lower_lr(h, learner, 10.0, "the policy's outputs have run away"),
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
        epochs = h.setting("epochs")
        advice = [Advice("or end a round where it has moved", "agent.target_kl", USUAL_KL)]
        if epochs and epochs > 1:
            # The divergence grows as the square of the way, and that with the passes.
            fewer = max(1, min(10, round(epochs * math.sqrt(USUAL_KL / size))))
            advice.insert(0, Advice("makes fewer passes", "agent.epochs", fewer))
        return Evidence(
            f"A round of updates moves the policy by a KL divergence of {size:.2g} nats "
            f"({USUAL_KL} is usual) and {cut.middle():.0%} of the ratios are beyond the clip"
            + (f", in {epochs} epochs." if epochs else "."),
            (*advice, *_lower_lr(h, learner, 3.0, "or smaller steps")),
            "kl",
            learner,
            float(kl.at[np.argmax(kl.values > STATISTICS["kl"].high)]),
            severity(size, STATISTICS["kl"].high),
            {"kl": size, "clip_fraction": cut.middle()},
        )
    return None


# ------------------------------------------------------------------------------------- its values


def overestimation(h: History) -> Evidence | None:
    """Values beyond what the rewards can ever add up to, or that grow without end."""
    for learner in h.learners:
        value, bound = h.series("value_max", learner), h.series("value_bound", learner)
        if len(value.values) < FEWEST_ROWS or not bound or not bound.values[-1] > 0:
            continue
        excess = value.values / np.interp(value.at, bound.at, bound.values)
        size = float(np.median(excess[len(excess) // 2 :]))
        if size > 1.5:
            wrong = excess > 1.5
            return Evidence(
                f"The largest value of {learner} is {value.middle():.3g}, {size:.2g} times what "
                f"rewards of at most {bound.values[-1] * (1 - (h.setting('gamma') or 0)):.3g} can "
                "add up to: values feed on themselves.",
                (
                    *_target(h),
                    *_lower_lr(h, learner, 10.0, "so that they do not run away"),
                    Advice("check terminated and truncated, and the discount", "agent.gamma", 0.99)
                    if (h.setting("gamma") or 0) > 0.99
                    else Advice("check that terminated is reported"),
                ),
                "value_max",
                learner,
                value.began(wrong),
                severity(size, 1.5),
                {"value_max": value.middle(), "value_bound": float(bound.values[-1])},
            )
    estimate, truth = h.evaluations.get("value_estimate"), h.evaluations.get("discounted_return")
    if estimate is None or truth is None:
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
            (*_target(h), *_lower_lr(h, _critic(h), 3.0, "so that errors average out")),
            "",
            "",
            Series(at, estimate).began((estimate - truth) > 1.5 * scale),
            severity(gap, 1.5),
            {"value_estimate": float(np.median(estimate[half:]))},
        )
    return None


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
                    *_normalize_reward(h, "makes returns, and what is learned from them, small"),
                    Advice(
                        "weighs the critic down", "agent.value_weight", _round(weight / size / 3)
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
        still = _moved(h, learner, "value") < STATISTICS["update_ratio"].low
        unfit = size < 0.5 if still else size < 0.05 and far > 0.5 and _flat(h)
        if size < -0.5 or unfit:
            weight = h.setting("value_weight")
            advice = []
            if weight is not None and weight < 0.1:
                advice.append(Advice("lets the critic learn", "agent.value_weight", 0.5))
            advice.extend(_normalize_reward(h, "brings returns near 1"))
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
                (Advice("brings it up to date", "agent.target_every", _often(h, made)),),
                "target_distance",
                learner,
                float(distance.at[0]),
                1.0,
                {"updates": made, "target_every": float(every)},
            )
    return None


# --------------------------------------------------------------------------------- its experience


def replay_too_small(h: History) -> Evidence | None:
    """The replay holds a few episodes only."""
    size, lengths = h.setting("buffer_size"), h.episodes.get("length")
    if size is None or lengths is None or not len(lengths):
        return None
    recent = float(np.mean(lengths[-20:]))
    share = size / h.steps
    if size < 20 * recent and share < 0.1:
        return Evidence(
            f"The replay holds {size:,} steps, {size / recent:.1f} episodes of the last length or "
            f"{share:.1%} of the run: what it learns from is all alike, and soon forgotten.",
            (Advice("keeps more", "agent.buffer_size", int(max(10_000, h.config["steps"] // 2))),),
            "",
            "",
            float(size),
            severity(size / recent, 20),
            {"buffer_size": float(size), "episode_length": recent},
        )
    return None


def too_few_updates(h: History) -> Evidence | None:
    """Hardly anything is made of the experience."""
    if h.steps < 1000:
        return None
    for learner in h.learners:
        made = float(h.rows[learner][1]["update"][-1])
        per_step = h.setting("updates_per_step")
        batch = h.setting("batch_size")
        reused = made * (batch or 0) / h.steps
        if per_step is not None and batch and reused < 2:
            return Evidence(
                f"{made:,.0f} updates of {batch} were made in {h.steps:,.0f} steps: each step is "
                f"learned from {reused:.2g} times, where 8 to 64 are usual.",
                (Advice("makes more of it", "agent.updates_per_step", _round(32 / batch)),),
                "",
                learner,
                0.0,
                severity(max(reused, 1e-3), 2),
                {"updates": made, "reuse": reused},
            )
        rollout = h.setting("rollout_size")
        if rollout is not None and h.config.get("steps") and rollout > h.config["steps"] / 8:
            return Evidence(
                f"{rollout:,} steps are collected before each round of updates, "
                f"{h.steps / rollout:.1f} rounds so far: what it learns from is long out of date.",
                (
                    Advice(
                        "learns sooner",
                        "agent.rollout_size",
                        int(min(2048, max(64, h.config["steps"] // 50))),
                    ),
                ),
                "",
                learner,
                0.0,
                severity(rollout, h.config["steps"] / 8),
                {"updates": made, "rollout_size": float(rollout)},
            )
    return None


def forgotten(h: History) -> Evidence | None:
    """The evaluations were good and are so no more."""
    at, values = h.evaluated
    first = h.untrained
    window = max(5, len(values) // 8)
    if len(values) < 4 * window or not len(first):
        return None
    means = np.convolve(values, np.full(window, 1 / window), "valid")
    peak, last = int(means.argmax()), values[-window:]
    gained = float(means[peak] - np.mean(first))
    lost = float(means[peak] - np.mean(last)) / gained if gained > 3 * np.std(first) else 0.0
    if lost < LOST or np.median(last) > values[peak : peak + window].min():
        return None
    learner, advice = _critic(h), []
    if _own(h, learner, "optim.schedule") == "constant":
        schedule = _field(h, learner, "optim.schedule")
        advice.append(Advice("lets it settle", schedule, "linear"))
    if h.setting("entropy_weight") is not None:
        advice.extend(_explore(h))
    advice.extend(_lower_lr(h, learner, 3.0, "or smaller steps"))
    advice.append(Advice("the best is kept: python scripts/evaluate.py RUN --best"))
    return Evidence(
        f"Evaluations came to {means[peak]:.4g} around step {at[peak + window - 1]:,.0f} and end "
        f"at {np.mean(last):.4g}: {lost:.0%} of what had been gained is lost.",
        tuple(advice),
        "",
        "",
        float(at[peak + window - 1]),
        severity(lost, LOST),
        {"best": float(means[peak]), "last": float(np.mean(last)), "lost": lost},
    )


def looks_healthy(h: History) -> Evidence | None:
    """Nothing is wrong with the optimisation, and the return does not rise."""
    if not h.learners or not _flat(h):
        return None
    return Evidence(
        "Gradients, updates and values look healthy, and still the return does not rise: look at "
        "the reward, at exploration, or at the environment.",
        (*_explore(h), Advice("play an episode: does the return depend on what the agent does?")),
        "",
        "",
        0.0,
        0.5,
    )


# ----------------------------------------------------------------------------------------- helpers


def _flat(h: History) -> bool:
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
    """How often a return of the last fifth of a curve beats one of the first; 0 without any."""
    late = curve[-max(3, len(curve) // 5) :, None]
    return float(np.mean((late > first) + 0.5 * (late == first))) if len(late) else 0.0


def _moved(h: History, learner: str, part: str) -> float:
    """Update / weight at first of the median layer of a part of the network; nan without such.

    At first, for what has learned all that there is comes to rest.
    """
    layers = h.layers.get(learner)
    names = [name for name in layers.names if part_of(name) == part] if layers else []
    ratios = [np.median(h.layer(learner, name, "update_ratio").early()) for name in names]
    return float(np.median(ratios or [math.nan]))


def _own(h: History, learner: str, name: str) -> Any:
    """A setting as this learner has it."""
    return h.setting(h.path(learner, name))


def _field(h: History, learner: str, name: str) -> str:
    """What advice calls a setting of this learner."""
    return f"agent.{h.path(learner, name)}"


def _critic(h: History) -> str:
    """The learner that values are learned by: the one that is called so, or the only one."""
    named = [name for name in h.learners if name in ("critic", "value")]
    return (named or h.learners or [""])[0]


def _lr(h: History, learner: str) -> float:
    """Its learning rate; 0 for one that has none, as a trust region's policy."""
    searched = learner == "policy" and h.setting("max_kl") is not None
    return 0.0 if searched else _own(h, learner, "optim.lr") or 0.0


def _lower_lr(h: History, learner: str, factor: float, why: str) -> tuple[Advice, ...]:
    lr = _lr(h, learner)
    return (Advice(why, _field(h, learner, "optim.lr"), _round(lr / factor)),) if lr else ()


def _limit(h: History, learner: str, norm: float) -> Iterator[Advice]:
    if _own(h, learner, "optim.max_grad_norm") is None:
        limit = 0.5 if norm < 1e4 else 1.0
        yield Advice("cuts what is too long", _field(h, learner, "optim.max_grad_norm"), limit)


def _explore(h: History) -> Iterator[Advice]:
    if (weight := h.setting("entropy_weight")) is not None:
        yield Advice("keeps it trying", "agent.entropy_weight", max(0.01, _round(3 * weight)))
    elif (steps := h.setting("epsilon_steps")) is not None:
        longer = int(max(2 * steps, (h.config.get("steps") or 0) // 2))
        yield Advice("tries longer", "agent.epsilon_steps", longer)


def _target(h: History) -> Iterator[Advice]:
    if h.setting("double") is False:
        yield Advice("chooses and values by two networks", "agent.double", True)
    every = h.setting("target_every")
    if every is not None and every < TARGET_RESTS / 2 and h.setting("tau") in (None, 1.0):
        yield Advice("lets the target rest", "agent.target_every", TARGET_RESTS)
    yield from _normalize_reward(h, "makes values small")


def _normalize_reward(h: History, why: str) -> Iterator[Advice]:
    if not h.setting("clip_reward"):  # which excludes it
        yield Advice(why, "agent.normalize_reward", True)


def _clip_reward(h: History, why: str) -> Iterator[Advice]:
    if not h.setting("normalize_reward"):
        yield Advice(why, "agent.clip_reward", True)


def _often(h: History, updates: float) -> int:
    """After how many updates to move the target: those of a rollout where it learns from such.

    From a replay all of the way, or the part of it that τ says.
    """
    if rollout := h.setting("rollout_size"):
        return int(max(1, updates * rollout // h.steps))
    tau = h.setting("tau") or 1.0
    return int(max(1, tau * min(TARGET_RESTS, updates // 20)))


def _round(value: Any) -> float:
    """To one significant digit, of 1, 2, 3 or 5."""
    value = max(float(value), 1e-12)
    scale = 10.0 ** math.floor(math.log10(value))
    digit = min((1.0, 2.0, 3.0, 5.0, 10.0), key=lambda d: abs(math.log(d * scale / value)))
    return float(f"{digit * scale:.1e}")


RULES = (
    Rule("non_finite", "Something is not finite", 1.0, non_finite),
    Rule("target_never_moves", "The target network is never updated", 0.97, target_never_moves),
    Rule("no_reward", "There is no reward", 0.96, no_reward),
    Rule("observations", "Observations are not normalised", 0.95, observations),
    Rule("constant_observations", "Observations are constant", 0.94, constant_observations),
    Rule("reward_scale", "Rewards are of an unsuitable scale", 0.93, reward_scale),
    Rule("truncation", "Time limits are treated as endings", 0.92, truncation),
    Rule("lr_too_high", "The learning rate is far too high", 0.9, lr_too_high),
    Rule("lr_too_low", "The learning rate is far too low", 0.9, lr_too_low),
    Rule("too_few_updates", "Too few updates are made, or on stale data", 0.88, too_few_updates),
    Rule("replay_too_small", "The replay is too small", 0.87, replay_too_small),
    Rule("vanishing", "Gradients vanish on their way through the layers", 0.86, vanishing),
    Rule("dead_units", "Most units of a layer are dead", 0.85, dead_units),
    Rule("plasticity", "It loses its plasticity", 0.84, plasticity),
    Rule("exploding", "Gradients explode", 0.83, exploding),
    Rule("overestimation", "Values are over-estimated or diverge", 0.82, overestimation),
    Rule("too_many_epochs", "Each round of updates goes too far", 0.8, too_many_epochs),
    Rule("critic_drowns_actor", "The critic drowns the actor", 0.78, critic_drowns_actor),
    Rule("clip_sets_step", "The clip does the work of the learning rate", 0.72, clip_sets_step),
    Rule("entropy_collapse", "The policy's entropy has collapsed", 0.68, entropy_collapse),
    Rule("constant_action", "The actions are constant or saturated", 0.66, constant_action),
    Rule("critic_not_fitting", "The critic does not fit", 0.6, critic_not_fitting),
    Rule("noise", "The updates are noise", 0.5, noise),
    Rule("forgotten", "What was learned has been lost again", 0.45, forgotten),
    Rule(
        "looks_healthy",
        "The optimisation looks healthy: look at reward, exploration or environment",
        0.3,
        looks_healthy,
    ),
)
"""In the order of their weight: what causes others stands before what is caused."""
