"""Progress: how a run is doing while it runs, live on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agents.core.gradients import Record
from agents.core.learner import Learner, Step
from agents.runner.evaluate import Evaluation
from agents.runner.health import Health
from agents.runner.train import Callback, Run
from envs.transition import Transition

REFRESH = 0.25
"""Seconds from one redrawing of the live display to the next."""
PLAIN_LINES = 10
"""Lines a run prints where there is no terminal."""


class UnendingConsole(Console):
    """Raises BrokenPipeError where nobody reads any more; rich's own ends the whole program and
    takes its stdout away."""

    def on_broken_pipe(self) -> None:
        raise  # what rich has just caught


class Progress(Callback):
    """Shows returns, evaluations and gradient statistics, on stderr unless told otherwise.

    `heading` is a line to begin with; what `health` finds is shown with the figures.
    """

    def __init__(
        self, console: Console | None = None, heading: str = "", health: Health | None = None
    ) -> None:
        self.console = console or UnendingConsole(file=sys.stderr)
        self.heading = heading
        self.health = health
        self.returns: deque[float] = deque(maxlen=100)
        self.evaluation = math.nan
        self.evaluating = 0.0
        """Seconds spent on evaluations so far."""
        self.steps: dict[str, Step] = {}
        """Each learner's last step."""
        self.records: dict[str, Record] = {}
        """Each learner's last record of gradient statistics."""
        self.skipped = 0
        self._warned = False
        self._live: Live | None = None
        self._began = self._drawn = time.perf_counter()
        self._first = 0

    def started(self, run: Run) -> None:
        self._first = run.agent.steps
        self._began = time.perf_counter()
        if self.heading:
            self._print(self.heading)
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=False)
            self._live.start()

    def learned(self, run: Run, learner: Learner, step: Step) -> None:
        self.steps[learner.name] = step
        if step.record is not None:
            self.records[learner.name] = step.record
        if step.skipped:
            self.skipped += 1
            if not self._warned:
                self._warned = True
                self.console.print(
                    f"warning: learner {learner.name!r} skipped an update at step "
                    f"{run.agent.steps}: {step.nonfinite} is not finite; nothing was changed by "
                    "it, further ones are only counted",
                    style="yellow",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )

    def stepped(self, run: Run, transition: Transition) -> None:
        for episode in run.envs.episodes:
            self.returns.append(episode.return_)
        if self._live is None:
            if run.passed(max(1, run.steps // PLAIN_LINES)):
                self._print(self.line(run))
        elif time.perf_counter() - self._drawn > REFRESH:
            self._draw(run)

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        self.evaluation = evaluation.mean
        self.evaluating += evaluation.seconds

    def ended(self, run: Run) -> None:
        if self._live is not None:
            self._draw(run)
            self.close()
        if run.stopped and run.finished and not run.interrupted:  # of that whoever goes on tells
            self._print(f"stopped at step {run.agent.steps}: {run.stopped}")

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def figures(self, run: Run) -> dict[str, str]:
        """What is shown, by name."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        taken = run.agent.steps - self._first
        speed = taken / max(elapsed - self.evaluating, 1e-9)
        left = (run.steps - run.agent.steps) * elapsed / taken if taken else math.nan
        mean_return = sum(self.returns) / len(self.returns) if self.returns else math.nan
        several = len(self.steps) > 1
        norms = [
            f"{name} {step.grad_norm:.3g}" if several else f"{step.grad_norm:.3g}"
            for name, step in self.steps.items()
        ]
        return {
            "return": _number(mean_return),
            "evaluation": _number(self.evaluation),
            "grad norm": " ".join(norms) or "–",
            "skipped": str(self.skipped),
            "steps/s": f"{speed:,.0f}",
            "left": _clock(left),
        }

    def line(self, run: Run) -> str:
        """Everything on one line."""
        share = min(1.0, run.agent.steps / run.steps)
        figures = "  ".join(f"{name} {value}" for name, value in self.figures(run).items())
        health = "" if self.health is None else f"  health: {self.health.word}"
        return f"step {run.agent.steps}/{run.steps} {share:4.0%}  {figures}{health}"

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _draw(self, run: Run) -> None:
        self._drawn = time.perf_counter()
        if self._live is not None:
            self._live.update(self._picture(run), refresh=True)

    def _picture(self, run: Run) -> Group:
        """The bar, the figures, and a line for each layer of each learner."""
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        bar.add_row(
            ProgressBar(run.steps, run.agent.steps),
            f"{run.agent.steps:,} of {run.steps:,} steps",
        )
        figures = Table(box=None, padding=(0, 2, 0, 0))
        values = self.figures(run)
        for name in values:
            figures.add_column(name, justify="right", header_style="dim")
        figures.add_row(*values.values())
        layers = Table(box=None, padding=(0, 2, 0, 0))
        layers.add_column("layer", header_style="dim")
        for name in ("grad norm", "update ratio", "zero gradient", "dormant"):
            layers.add_column(name, justify="right", header_style="dim")
        for learner, record in self.records.items():
            summary = run.agent.learners[learner].statistics.summary([record])
            for i, layer in enumerate(summary.layers):
                c = {name: column[i] for name, column in summary.columns.items()}
                layers.add_row(
                    layer if len(self.records) == 1 else f"{learner} {layer}",
                    f"{c['grad_norm']:.2e}",
                    f"{c['update_ratio']:.1e}",
                    _percent(c["zero_fraction"]),
                    _percent(c["dormant"]),
                )
        parts: list[Any] = [bar, figures]
        if self.health is not None:
            parts.append(self._state(self.health))
        if self.records:
            parts.append(layers)
        return Group(*parts)

    def _state(self, health: Health) -> Text:
        """A line on the run's health, with what to try first where something is wrong."""
        if not health.findings:
            return Text(f"health: {health.word}", style="green" if health.good else "dim")
        advice = health.findings[0].evidence.advice[0]
        return Text(f"health: {health.word} → {advice}", style="red")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
