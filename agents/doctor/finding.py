"""What a rule looks like and what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agents.doctor.history import History


@dataclass(frozen=True)
class Advice:
    """One thing to change."""

    text: str
    field: str | None = None
    """The setting by its flag without the dashes, such as agent.optim.lr; None: not a setting."""
    value: Any = None
    """What to set it to."""

    def changes(self, history: History) -> bool:
        """Whether the run's agent has the setting, and has it otherwise; text alone always may."""
        if self.field is None:
            return True
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return history.setting(self.field.removeprefix("agent."), value) != value

    @property
    def flag(self) -> str:
        """What to put on the command line; empty where it is not a setting."""
        if self.field is None:
            return ""
        if isinstance(self.value, bool):
            head, _, last = self.field.rpartition(".")
            words = [f"--{head}.{last if self.value else 'no-' + last}"]
        else:
            several = isinstance(self.value, list | tuple)
            words = [f"--{self.field}", *map(_short, self.value if several else [self.value])]
        return " ".join([words[0].replace("_", "-"), *words[1:]])

    def __str__(self) -> str:
        return f"{self.flag}  {self.text}" if self.field else self.text


@dataclass(frozen=True)
class Evidence:
    """What a rule saw: that its condition holds, by how much, and what follows."""

    because: str
    """In one or two plain sentences, with the figures."""
    advice: tuple[Advice, ...]
    """The first is the one to try first; what the run has already, `diagnose` leaves out."""
    statistic: str = ""
    """The statistic it shows in, by the name of `STATISTICS`; empty: the returns."""
    learner: str = ""
    began: float = 0.0
    """The environment step from which on it held."""
    severity: float = 1.0
    """How far beyond the threshold: 1/2 just there, 1 far beyond."""
    figures: dict[str, float] = field(default_factory=dict)
    """The numbers behind it."""


@dataclass(frozen=True)
class Rule:
    """A condition over what a run recorded, and what it means."""

    condition: Callable[[History], Evidence | None]
    weight: float
    """Up to 1: how surely it is a cause. What is mostly a symptom of something else has less."""
    title: str

    @property
    def name(self) -> str:
        """That of its condition."""
        return self.condition.__name__


@dataclass(frozen=True)
class Finding:
    """A rule whose condition holds."""

    rule: Rule
    evidence: Evidence

    @property
    def change(self) -> Advice | None:
        """The setting to try first, for who follows without reading; None: there is none."""
        return next((advice for advice in self.evidence.advice if advice.field), None)

    @property
    def weight(self) -> float:
        """What findings are ordered by: how surely it is a cause, and how far it has gone."""
        return self.rule.weight * (0.8 + 0.2 * self.evidence.severity)

    def __str__(self) -> str:
        lines = [f"{self.rule.title} (from step {self.evidence.began:,.0f})"]
        lines.append(f"  {self.evidence.because}")
        lines += [f"  → {advice}" for advice in self.evidence.advice]
        return "\n".join(lines)


def severity(value: float, threshold: float) -> float:
    """1/2 at the threshold, towards 1 with every decade beyond it; either may be the larger."""
    small, large = sorted((max(abs(value), 1e-30), max(abs(threshold), 1e-30)))
    return 1.0 - 0.5 / (1.0 + math.log10(large / small))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
