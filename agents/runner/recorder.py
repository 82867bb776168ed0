"""Recorder: what a run leaves behind as CSV files, episodes, updates, gradients and evaluations.

Values are written in full (`repr` of a float), so that a resumed run's files equal, wall-clock
columns aside, those of a run that was never interrupted.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from agents.agent import Agent, Metrics
from agents.core.distributions import largest_entropy
from agents.core.files import write_bytes
from agents.core.gradients import Record, Statistics
from agents.core.learner import Learner, Step
from agents.runner.columns import EPISODES, EVALUATIONS, GRADIENTS, UPDATES
from agents.runner.evaluate import Evaluation
from agents.runner.experience import Experience
from agents.runner.results import has_rows
from agents.runner.table import Mirror, Table
from agents.runner.train import Callback, Run
from envs.transition import Transition

LEAST_ROWS = 200
"""A run is divided into so many parts, and each in which a learner made an update has a row."""
DOUBLE_AFTER = 2000
"""Rows of a learner after which its interval doubles: a million updates make some 10,000 rows."""
WAIT_FOR = 1000
"""Rows that are held back at the most for a learner whose columns are not known yet."""

Cells = dict[str, list[float]]  # name -> [sum, how many]
Pending = tuple[dict[str, Any], list[Record]]


class Recorder(Callback):
    """Writes a run's CSV files into `folder`; `agents.runner.columns` says what is in them.

    `updates.csv` has a row for each learner every `log_every` of its updates (the interval doubles
    after 2000 rows), or once 1/200 of the run's steps have passed, if that is sooner: means over
    the interval, the largest gradient norm, and how many updates were clipped and skipped.
    `gradients.csv` has a row for each of its layers. The columns of a file are fixed when its first
    row is written; a name that turns up later is a ValueError. Where no script wrote a config.json,
    one says what the run is, so that the scripts can read the folder. `mirror`, if given, is called
    with the file's name and each row.

    Rows of another run in the folder are a ValueError, unless `train` is told to `restore`. The
    same recorder goes on with its files when an agent is trained further.
    """

    def __init__(
        self, folder: str | Path, log_every: int = 64, mirror: Mirror | None = None
    ) -> None:
        if log_every < 1:
            raise ValueError(f"log_every is {log_every}: use 1 or more")
        self.folder = Path(folder)
        self.log_every = log_every
        self.episodes = 0
        self.intervals: dict[str, Interval] = {}
        self.metrics: Cells = {}
        self.experience: Experience | None = None
        self._seen: Mapping[str, Any] | None = None
        self._agent: Agent | None = None
        self.pending: list[Pending] = []
        """Rows of updates.csv that wait for the agent's metrics, or for another learner's names,
        and the records of gradients that belong to them."""
        columns = {
            "episodes": tuple(EPISODES),
            "updates": None,  # they end with names of the agent's own
            "gradients": tuple(GRADIENTS),
            "evaluations": tuple(EVALUATIONS),
        }
        self._tables = {
            name: Table(self.folder / f"{name}.csv", known, mirror)
            for name, known in columns.items()
        }
        self._seconds = 0.0
        self._began = time.perf_counter()

    def started(self, run: Run) -> None:
        if not run.restoring:
            if self._agent not in (None, run.agent):
                raise ValueError(
                    f"this Recorder has another agent's in {self.folder}: make a new one"
                )
            self._spare_another()
        self._agent = run.agent
        self.folder.mkdir(parents=True, exist_ok=True)
        for table in self._tables.values():
            table.open()
        self._describe(run)
        self._began = time.perf_counter() - self._seconds
        self.experience = Experience(run.agent)
        if self._seen is not None:
            self.experience.load_state_dict(self._seen)
        for name in run.agent.learners:
            self.intervals.setdefault(name, Interval(began=run.agent.steps))

    def learned(self, run: Run, learner: Learner, step: Step) -> None:
        interval = self.intervals[learner.name]
        interval.add(step)
        if interval.seen >= self.log_every << interval.rows // DOUBLE_AFTER:
            self._close_interval(run, learner.name)

    def updated(self, run: Run, metrics: Metrics) -> None:
        _add(self.metrics, metrics)
        for name, interval in self.intervals.items():
            if interval.seen and (run.agent.steps - interval.began) * LEAST_ROWS >= run.steps:
                self._close_interval(run, name)
        if self.pending:
            self._write_updates(run)

    def stepped(self, run: Run, transition: Transition) -> None:
        assert self.experience is not None  # `started` made it
        self.experience.add(transition)
        if run.envs.episodes:
            seconds = round(time.perf_counter() - self._began, 3)
            for env, total, length in run.envs.episodes:
                self.episodes += 1
                truncated = int(not transition.terminated[env])
                row = (run.agent.steps, self.episodes, total, length, truncated, seconds)
                self._tables["episodes"].write([dict(zip(EPISODES, row, strict=True))])

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        e = evaluation
        row = (
            *(run.agent.steps, e.episodes, e.mean, e.std, e.min, e.max),
            *(float(e.lengths.mean()), e.discounted_return, e.value_estimate),
        )
        self._tables["evaluations"].write([dict(zip(EVALUATIONS, row, strict=True))])

    def ended(self, run: Run) -> None:
        # An interrupted run goes on with its interval when it is resumed; a failed one is read.
        if run.finished or run.failed:
            for name, interval in self.intervals.items():
                if interval.seen:
                    self._close_interval(run, name)
            self._write_updates(run, last=True)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()

    def _spare_another(self) -> None:
        """Raise ValueError where the folder has rows or checkpoints of another run."""
        tables = self._tables.values()
        lost = [t.path.name for t in tables if not t.offset and has_rows(t.path)]
        if not any(t.offset for t in tables) and (self.folder / "checkpoints/LATEST").exists():
            lost.append("config.json")
        if lost:
            raise ValueError(
                f"{self.folder} holds another run, whose {lost[0]} would be lost: go on with that "
                "one by restore=, delete it, or choose another folder"
            )

    def _describe(self, run: Run) -> None:
        """Write config.json, anew when the run goes on; one that somebody else wrote is kept."""
        path, config = self.folder / "config.json", run.to_json()
        if path.exists():
            try:
                kept = json.loads(path.read_text())
            except ValueError:
                return
            if not isinstance(kept, dict) or kept.keys() != config.keys():
                return
        # An agent of the user's own may have settings that JSON does not know.
        write_bytes(path, json.dumps(config, indent=2, default=str).encode())

    def _close_interval(self, run: Run, name: str) -> None:
        interval = self.intervals[name]
        where = {"step": run.agent.steps, "update": interval.update, "learner": name}
        row = where | interval.row()
        if target := run.agent.targets.get(name):
            weights = run.agent.learners[name].flat.vector
            gap = torch.linalg.vector_norm(weights - target.vector)
            row["target_distance"] = float(gap / torch.linalg.vector_norm(weights))
        self.pending.append((row, interval.records))
        self.intervals[name] = Interval(rows=interval.rows + 1, began=run.agent.steps)

    def _write_updates(self, run: Run, last: bool = False) -> None:
        names = {row["learner"] for row, _ in self.pending}
        first = self._tables["updates"].columns is None
        if first and not last and names < set(self.intervals) and len(self.pending) < WAIT_FOR:
            return  # the header needs the names of every learner's terms
        self._summarize(run)
        metrics = _means(self.metrics)
        rows = [_join(row, metrics) for row, _ in self.pending]
        assert self.experience is not None
        common = self.experience.row()
        most = largest_entropy(run.agent.action_space)
        for row in rows:
            row |= common
            if most > 0 and "policy_entropy" in row:
                row["entropy_ratio"] = row["policy_entropy"] / most
        self._tables["updates"].write(rows)
        self.metrics, self.pending = {}, []

    def _summarize(self, run: Run) -> None:
        """Write the layers of the pending rows, and put into these what was seen of the whole."""
        pending = [(row, records) for row, records in self.pending if records]
        groups: dict[str, list[list[Record]]] = {}
        for row, records in pending:
            groups.setdefault(row["learner"], []).append(records)
        summaries: dict[str, Iterator[Statistics]] = {
            name: iter(run.agent.learners[name].statistics.summaries(group))
            for name, group in groups.items()
        }
        rows = []
        for row, _ in pending:
            summary = next(summaries[row["learner"]])
            row |= {"cosine": summary.cosine, "snr": summary.snr, **summary.samples}
            where = {name: row[name] for name in ("step", "update", "learner")}
            layers = zip(summary.layers, *summary.columns.values(), strict=True)
            names = ("layer", *summary.columns)
            rows += [where | dict(zip(names, values, strict=True)) for values in layers]
        if rows:
            self._tables["gradients"].write(rows)

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes": self.episodes,
            "seconds": time.perf_counter() - self._began,
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "metrics": copy.deepcopy(self.metrics),
            "pending": copy.deepcopy(self.pending),
            "experience": self.experience.state_dict() if self.experience else None,
            "tables": {name: table.state_dict() for name, table in self._tables.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.episodes = state["episodes"]
        self._seconds = state["seconds"]
        self.intervals = {name: Interval(**saved) for name, saved in state["intervals"].items()}
        self.metrics, self.pending = state["metrics"], state["pending"]
        self._seen = state["experience"]
        for name, table in self._tables.items():
            table.load_state_dict(state["tables"][name])


@dataclass
class Interval:
    """What was seen of a learner since its last row."""

    rows: int = 0
    """Rows written before."""
    began: int = 0
    """The agent's steps then."""
    seen: int = 0
    skipped: int = 0
    clipped: int = 0
    update: int = 0
    lr: float = math.nan
    grad_norm_max: float = math.nan
    nonfinite: str = ""
    totals: Cells = field(default_factory=dict)
    terms: Cells = field(default_factory=dict)
    scalars: Cells = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Take in one step of the optimiser. The values of a skipped one are not averaged."""
        self.seen += 1
        self.update = step.update
        self.lr = step.lr
        if step.skipped:
            self.skipped += 1
            self.nonfinite = step.nonfinite
            for name in step.terms:
                self.terms.setdefault(name, [0.0, 0])
            for name in step.scalars:
                self.scalars.setdefault(name, [0.0, 0])
            return
        self.clipped += step.clipped
        if not step.grad_norm <= self.grad_norm_max:  # nan at first
            self.grad_norm_max = step.grad_norm
        _add(self.totals, {"loss": step.loss, "grad_norm": step.grad_norm})
        _add(self.terms, step.terms)
        _add(self.scalars, step.scalars)
        if step.record is not None:
            self.records.append(step.record)

    def row(self) -> dict[str, Any]:
        """The learner's part of a row of updates.csv."""
        own: dict[str, Any] = dict.fromkeys(list(UPDATES)[3:], math.nan) | _means(self.totals)
        if accepted := self.seen - self.skipped:
            own["grad_clip_fraction"] = self.clipped / accepted
        for name in ("grad_norm_max", "clipped", "skipped", "lr", "nonfinite"):
            own[name] = getattr(self, name)
        return _join(_join(own, _means(self.terms)), _means(self.scalars))


def _add(cells: Cells, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        cell = cells.get(name)
        if cell is None:
            cell = cells[name] = [0.0, 0]
        if value == value:  # nan: there is none
            cell[0] += value
            cell[1] += 1


def _means(cells: Cells) -> dict[str, float]:
    return {name: total / n if n else math.nan for name, (total, n) in cells.items()}


def _join(row: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both together. Raises ValueError if they have a name in common."""
    if clash := row.keys() & more.keys():
        raise ValueError(f"two columns of updates.csv would be called {min(clash)!r}: rename one")
    return {**row, **more}
