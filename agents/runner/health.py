"""Health: the doctor looks at a run while it goes on, and at its end."""

from __future__ import annotations

from pathlib import Path

from agents.doctor.finding import Finding
from agents.doctor.rules import diagnose
from agents.doctor.verdict import HEALTHY, Verdict, verdict
from agents.runner.results import read_history
from agents.runner.train import Callback, Run
from envs.transition import Transition

LOOKS = 20
"""How often in a run the doctor looks; what it reads grows, its rows are some 10,000 at most."""
FIRST_LOOK = 3
"""The look that is the first to be told: before it everything is in flux."""


class Health(Callback):
    """Keeps the findings of the run that a Recorder writes into `folder`.

    Comes after that Recorder, so that it reads what belongs to the step.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.findings: list[Finding] = []
        """As of the last look, the weightiest first."""
        self.verdict: Verdict | None = None
        """What they come to; None before the first look."""

    def stepped(self, run: Run, transition: Transition) -> None:
        every = max(1, run.steps // LOOKS)
        if run.passed(every) and run.agent.steps >= FIRST_LOOK * every:
            self.look(run)

    def ended(self, run: Run) -> None:
        if run.finished or run.failed:
            self.look(run)

    def look(self, run: Run) -> None:
        """Diagnose what was recorded so far."""
        history = read_history(self.folder, run.to_json())
        if history.updates:
            self.findings = diagnose(history)
            self.verdict = verdict(history, self.findings)

    @property
    def word(self) -> str:
        """How it is, in a few words."""
        return "–" if self.verdict is None else self.verdict.word

    @property
    def good(self) -> bool:
        """Whether enough was recorded to call it healthy."""
        return self.verdict == HEALTHY

    def lines(self) -> list[str]:
        """What to say at the end of a run: the first findings and what to try first."""
        if self.verdict is None:
            return []
        if not self.findings:
            return [f"health: {self.verdict.word}: {self.verdict.because}"]
        return [
            f"health: {finding.rule.title}: {finding.evidence.because} → "
            f"{finding.evidence.advice[0]}"
            for finding in self.findings[:3]
        ] + [f"  all of it: python scripts/doctor.py {self.folder}"]
