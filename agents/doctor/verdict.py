"""What is said of a run in one line, where "healthy" is only said of what could be judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agents.doctor.finding import Finding
from agents.doctor.history import History
from agents.doctor.rules.reading import FEWEST_ROWS


class Verdict(NamedTuple):
    """How a run is."""

    word: str
    """In a few words."""
    because: str
    """In a sentence."""


NOTHING = Verdict("no update recorded", "No update was recorded: there is nothing to judge.")
EARLY = Verdict(
    "too early to say",
    f"No fault shows, but most take {FEWEST_ROWS} rows of updates.csv for each learner to show.",
)
HEALTHY = Verdict(
    "healthy", "Gradients, updates, policy and values are within their healthy bands."
)


def verdict(history: History, findings: Sequence[Finding]) -> Verdict:
    """What the findings of `diagnose`, or their absence, mean for the run."""
    if findings:
        first, more = findings[0], len(findings) - 1
        word = first.rule.title + (f" and {more} more" if more else "")
        return Verdict(word, first.evidence.because)
    if not history.learners:
        return NOTHING
    if min(len(at) for at, _ in history.rows.values()) < FEWEST_ROWS:
        return EARLY
    return HEALTHY
