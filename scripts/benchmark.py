"""Trains agents on tasks over seeds, so many at a time, and tabulates what came of it.

    python scripts/benchmark.py --agents ppo dqn --envs CartPole-v1 --seeds 100-104 --jobs 2

The table and the curves cover every run in `--out`, so that agents with other budgets can be
added by another call. Called again after an interruption, it goes on where it was.
"""

from __future__ import annotations

import sys

try:
    import csv
    import math
    import os
    import shutil
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import ThreadPoolExecutor, as_completed
    from dataclasses import dataclass
    from itertools import groupby
    from pathlib import Path
    from typing import Any

    import numpy as np

    import envs  # (first: it says so if `agents` is another distribution's)

    # isort: split
    from agents import AGENTS
    from agents.runner.arguments import (
        INTERRUPTED,
        MAX_THREADS,
        bad_input,
        check_ranges,
        guarded,
        parse,
        seed_list,
    )
    from agents.runner.cli import build
    from agents.runner.folder import file_name, folder_name
    from agents.runner.results import (
        Run,
        area_under_curve,
        bootstrap_interval,
        grouped,
        has_rows,
        iqm,
        read_run,
    )
    from agents.runner.settings import read_arguments
except KeyboardInterrupt:  # while this takes its time
    sys.exit(130)

SCRIPTS = Path(__file__).parent
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Options:
    """Train agents on tasks over seeds and tabulate the final evaluations."""

    agents: tuple[str, ...] = ()
    """Agents by name, such as ppo."""
    envs: tuple[str, ...] = ("CartPole-v1",)
    """Gymnasium ids of the tasks."""
    seeds: tuple[str, ...] = ("100-104",)
    """Seeds and ranges of seeds, both ends included: 100-104, or 100 101 107."""
    steps: int | None = None
    """Environment steps of each run; None: what the agent's preset says."""
    jobs: int = 1
    """Runs at a time."""
    threads: int = 1
    """CPU threads of each run."""
    out: Path = Path("runs/benchmark")
    """Folder of the runs, their logs, and benchmark.md, benchmark.csv and a PNG for each task."""
    threshold: float | None = None
    """A return to count the seeds that reach it; None: the task's own, where it has one."""
    collect: Path | None = None
    """Copy what is small and worth keeping (table, curves, evaluations, configs) here."""
    table_only: bool = False
    """Train nothing, tabulate the runs that are there."""


@dataclass(frozen=True)
class Row:
    """What the seeds of one agent on one task came to, by the evaluation of the last step."""

    task: str
    agent: str
    """With the settings in which it differs from others of its name on the task."""
    seeds: list[int]
    steps: list[int]
    """Of the last evaluations: `planned`, less where a run ended early or is unfinished."""
    planned: int
    episodes: int
    """In a final evaluation."""
    returns: list[float]
    area: float
    """Mean over the seeds of the height of their curves over the whole of training."""
    threshold: float | None
    minutes: list[float]
    """Wall time until the last training episode, nan where it is not known."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def iqm(self) -> float:
        return float(iqm(self.returns))

    @property
    def interval(self) -> tuple[float, float]:
        low, high = bootstrap_interval(self.returns)
        return float(low), float(high)

    @property
    def reached(self) -> int | None:
        """Seeds whose final mean return is at least the threshold."""
        if self.threshold is None:
            return None
        return sum(value >= self.threshold for value in self.returns)


# ------------------------------------------------------------------------------------ training


def train_all(options: Options) -> list[str]:
    """Train what is not trained yet. Returns a line for each run that failed."""
    commands = _commands(options)
    options.out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {
            pool.submit(_train, folder, command, options.threads): folder
            for folder, command in commands.items()
        }
        try:
            for done, future in enumerate(as_completed(running), 1):
                status, last_line = future.result()
                line = f"{running[future].name}: {last_line}"
                if status:
                    line = f"{running[future].name} failed with exit status {status}: {last_line}"
                    failures.append(line)
                print(f"[{done}/{len(commands)}] {line}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)  # each writes a checkpoint as it ends
            raise
    return failures


def _commands(options: Options) -> dict[Path, list[str]]:
    """The command of each run by its folder, seeds outermost: early tables then compare all.

    Raises ValueError for anything in which a run would fail before its first step.
    """
    for name in ("agents", "envs"):
        if not getattr(options, name):
            hint = f": name some of {', '.join(AGENTS)}" if name == "agents" else ""
            raise ValueError(f"--{name} is empty{hint}")
    for agent in options.agents:
        if agent not in AGENTS:
            raise ValueError(f"--agents {agent}: there is {', '.join(AGENTS)}")
    if options.collect is not None and options.collect.resolve() == options.out.resolve():
        raise ValueError(f"--collect is {options.collect}, as --out is: give another folder")
    check_ranges(options, jobs=(1, math.inf), threads=(1, MAX_THREADS), steps=(1, math.inf))
    settings = ["--threads", str(options.threads)]
    if options.steps is not None:
        settings += ["--steps", str(options.steps)]
    seeds = seed_list(options.seeds)
    for env in options.envs:
        for agent in options.agents:
            cls = AGENTS[agent]
            build(cls, read_arguments(cls, ["--env", env, *settings]))[0].close()
    commands = {}
    for seed in seeds:
        for env in options.envs:
            for agent in options.agents:
                folder = options.out / folder_name(agent, env, seed)
                command = [sys.executable, str(SCRIPTS / f"train_{agent}.py"), "--env", env]
                command += ["--seed", str(seed), *settings]
                command += ["--out", str(folder), "--resume", "--no-progress"]
                commands[folder] = command
    return commands


def _train(folder: Path, command: Sequence[str], threads: int) -> tuple[int, str]:
    """Exit status and last line of a run, which logs beside its folder."""
    log = folder.with_name(f"{folder.name}.log")
    limits = dict.fromkeys(THREAD_LIMITS, str(threads))
    with log.open("w") as file:
        status = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | limits, check=False
        ).returncode
    return status, _last_line(log.read_text(errors="replace"))


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it said nothing"


# ---------------------------------------------------------------------------------- tabulating


def runs_in(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs in a folder that have been evaluated, and a line for each that cannot be read.

    One that has only just begun is left out, which stderr is told.
    """
    runs, failures = [], []
    for config in sorted(folder.glob("*/config.json")):
        if _has_just_begun(config.parent):
            print(f"{config.parent}: left out, it has no evaluation yet", file=sys.stderr)
            continue
        try:
            run = read_run(config.parent)
            run.evaluations()
            runs.append(run)
        except ValueError as error:
            failures.append(str(error))
    return runs, failures


def _has_just_begun(folder: Path) -> bool:
    """Whether a run has opened no file yet, or written no evaluation."""
    file = folder / "evaluations.csv"
    return not has_rows(file) and (file.exists() or not any(folder.glob("*.csv")))


def tabulate(runs: Sequence[Run], threshold: float | None = None) -> Iterator[Row]:
    """A row for each agent on each task, and each of its settings where these differ.

    `threshold` None is the task's own, if it has one.
    """
    for (task, agent), members in grouped(runs).items():
        curves = [run.evaluations() for run in members]
        areas = [area_under_curve(curve["step"], curve["mean_return"]) for curve in curves]
        yield Row(
            task,
            agent,
            seeds=[run.seed for run in members],
            steps=[int(curve["step"][-1]) for curve in curves],
            planned=members[0].steps,
            episodes=min(int(curve["episodes"][-1]) for curve in curves),
            returns=[float(curve["mean_return"][-1]) for curve in curves],
            area=float(np.mean(areas)),
            threshold=_own_threshold(task) if threshold is None else threshold,
            minutes=[_minutes(run) for run in members],
        )


def _own_threshold(task: str) -> float | None:
    try:
        return envs.spec(task).reward_threshold
    except ValueError:
        return None


def _minutes(run: Run) -> float:
    try:
        return float(run.episodes()["seconds"][-1]) / 60
    except (KeyError, ValueError):
        return float("nan")


def markdown(rows: Sequence[Row], failures: Sequence[str] = ()) -> str:
    """The rows as a Markdown table, with what each column means and what failed below it."""
    head = (
        "task",
        "agent",
        "seeds",
        "steps",
        "final return of each seed",
        "mean",
        "IQM [95% interval]",
        "area",
        "reached",
        "minutes",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        low, high = row.interval
        reached = "–"
        if row.threshold is not None:
            reached = f"{row.reached} of {len(row.seeds)} ≥ {row.threshold:g}"
        cells = (
            row.task,
            row.agent,
            _ranges(row.seeds),
            _span(row.steps, "{:,}"),
            ", ".join(f"{value:.1f}" for value in row.returns),
            f"{row.mean:.1f}",
            f"{row.iqm:.1f}" + ("" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]"),
            f"{row.area:.1f}",
            reached,
            _span([m for m in row.minutes if not np.isnan(m)], "{:.1f}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    episodes = _span([row.episodes for row in rows], "{}")
    lines += [
        "",
        f"Final return: mean of {episodes} evaluation episodes after the last step, not the best "
        "on the way. IQM: interquartile mean over seeds, with a bootstrap interval. Area: mean of "
        "the evaluations over the whole of training. Minutes: wall time of a run.",
    ]
    early = [
        f"- {row.agent} on {row.task}, seed {seed}: at step {step:,} of {row.planned:,}"
        for row in rows
        for seed, step in zip(row.seeds, row.steps, strict=True)
        if step < row.planned
    ]
    if early:
        lines += ["", "Ended early or still training, with the last evaluation so far:", "", *early]
    if failures:
        lines += ["", "Failed:", "", *(f"- {failure}" for failure in failures)]
    return "\n".join(lines) + "\n"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """The same table for programs; lists are separated by spaces."""
    with path.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            low, high = row.interval
            cells: Mapping[str, Any] = {
                "task": row.task,
                "agent": row.agent,
                "seeds": _words(row.seeds),
                "steps": _words(row.steps),
                "episodes": row.episodes,
                "returns": _words(row.returns),
                "mean": row.mean,
                "iqm": row.iqm,
                "iqm_low": low,
                "iqm_high": high,
                "area": row.area,
                "threshold": row.threshold,
                "reached": row.reached,
                "minutes": _words(round(m, 2) for m in row.minutes),
            }
            if writer is None:
                writer = csv.DictWriter(file, cells)
                writer.writeheader()
            writer.writerow(cells)


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values)


def _ranges(seeds: Sequence[int]) -> str:
    """100, 101, 102, 107 as 100–102, 107."""
    parts = []
    for _, group in groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0]):
        run = [seed for _, seed in group]
        parts.append(f"{run[0]}" if len(run) == 1 else f"{run[0]}–{run[-1]}")
    return ", ".join(parts)


def _span(values: Sequence[float], form: str) -> str:
    """The least and the greatest value, once where they read the same."""
    ends = dict.fromkeys(form.format(f(values)) for f in (min, max)) if values else ["–"]
    return "–".join(ends)


# ------------------------------------------------------------------------------------- writing


def report(options: Options, failures: Sequence[str]) -> list[str]:
    """Write table and curves of all runs in `out`. Returns the failures, with what is not there."""
    runs, unreadable = runs_in(options.out)
    if not runs:
        raise ValueError("; ".join([*failures, *unreadable]) or f"{options.out}: no runs in it")
    failures = [*failures, *unreadable, *_draw(runs, options.out)]
    rows = list(tabulate(runs, options.threshold))
    table = markdown(rows, failures)
    (options.out / "benchmark.md").write_text(table)
    write_csv(options.out / "benchmark.csv", rows)
    print(table, end="")
    if options.collect is not None:
        _collect(runs, options.out, options.collect)
    return failures


def _draw(runs: Sequence[Run], out: Path) -> list[str]:
    """Learning curves, a picture a task. Returns a line for each that could not be drawn."""
    failures = []
    for task, group in groupby(sorted(runs, key=lambda run: run.env), key=lambda run: run.env):
        picture = out / f"{file_name(task)}.png"
        command = [sys.executable, str(SCRIPTS / "plot.py"), *(str(run.path) for run in group)]
        drawn = subprocess.run([*command, "--out", str(picture)], capture_output=True, text=True)
        if drawn.returncode:
            failures.append(f"no curves of {task}: {_last_line(drawn.stderr)}")
    return failures


def _collect(runs: Sequence[Run], out: Path, folder: Path) -> None:
    """Copy what is small: the table, the curves, and what they were made from."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (out / "benchmark.md", out / "benchmark.csv", *out.glob("*.png")):
        shutil.copy(path, folder)
    for run in runs:
        (folder / run.path.name).mkdir(exist_ok=True)
        for name in ("config.json", "evaluations.csv"):
            shutil.copy(run.path / name, folder / run.path.name)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 1 if a run failed, 2 for bad input, 130 after Ctrl-C."""

    def run() -> int:
        with bad_input():
            options = parse(Options, sys.argv[1:] if argv is None else argv)
            failures = [] if options.table_only else train_all(options)
            failures = report(options, failures)
        for failure in failures:
            print(f"benchmark.py: {failure}", file=sys.stderr)
        return 1 if failures else 0

    code = guarded("benchmark.py", run)
    if code == INTERRUPTED:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
