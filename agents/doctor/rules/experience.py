"""Rules of what is made of the experience, and what it comes to."""

from __future__ import annotations

import numpy as np

from agents.doctor.finding import Advice, Evidence, severity
from agents.doctor.history import History
from agents.doctor.rules.advice import explore, lower_lr, rounded
from agents.doctor.rules.reading import critic_of, field_of, flat, setting_of

LOST = 0.5
"""Share of what a run had gained at its best that is gone at its end, from which on it has been
forgotten; what a healthy run of DQN loses comes back (calibrated)."""


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
            planned = h.config.get("steps") or h.steps
            starts, began = max(1, int(planned) // 50), h.setting("learning_starts") or 0
            if h.steps < min(2 * began, 0.9 * planned):
                continue  # it has only begun
            late = per_step * batch >= 8 and began > starts  # not how many, but from when on
            return Evidence(
                f"{made:,.0f} updates of {batch} were made in {h.steps:,.0f} steps: each step is "
                f"learned from {reused:.2g} times, where 8 to 64 are usual.",
                (
                    Advice("begins to learn sooner", "agent.learning_starts", starts)
                    if late
                    else Advice("makes more of it", "agent.updates_per_step", rounded(32 / batch)),
                ),
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
    learner, advice = critic_of(h), []
    if setting_of(h, learner, "optim.schedule") == "constant":
        schedule = field_of(h, learner, "optim.schedule")
        advice.append(Advice("lets it settle", schedule, "linear"))
    if h.setting("entropy_weight") is not None:
        advice.extend(explore(h))
    advice.extend(lower_lr(h, learner, 3.0, "or smaller steps"))
    advice.append(Advice("the best is kept: python scripts/evaluate.py RUN --best"))
    return Evidence(
        f"{window} evaluations in a row came to {means[peak]:.4g} on average around step "
        f"{at[peak + window - 1]:,.0f}, the last {window} to {np.mean(last):.4g}: {lost:.0%} of "
        "what had been gained is lost.",
        tuple(advice),
        "",
        "",
        float(at[peak + window - 1]),
        severity(lost, LOST),
        {"best": float(means[peak]), "last": float(np.mean(last)), "lost": lost},
    )


def looks_healthy(h: History) -> Evidence | None:
    """Nothing is wrong with the optimisation, and the return does not rise."""
    if not h.learners or not flat(h):
        return None
    return Evidence(
        "Gradients, updates and values look healthy, and still the return does not rise: look at "
        "the reward, at exploration, or at the environment.",
        (*explore(h), Advice("play an episode: does the return depend on what the agent does?")),
        "",
        "",
        0.0,
        0.5,
    )
