"""What a person sees of a run: plain lines, a live picture, and one warning."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

import envs
from agents.runner.callbacks import Evaluate
from agents.runner.evaluate import Evaluation
from agents.runner.progress import Progress
from agents.runner.train import Callback, train
from tests.runner.fakes import Tiny, unread


def show(terminal, also=(), steps=3200):
    """What a run shows, without control characters."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200, color_system=None)
    tasks = envs.make("CartPole-v1", num_envs=4)
    agent = Tiny(tasks.observation_space, tasks.action_space, seed=0)
    evaluate = Evaluate(envs.make("CartPole-v1", num_envs=2), 320, 2)
    train(agent, tasks, steps, [evaluate, *also, Progress(console)])
    return out.getvalue()


def test_ten_plain_lines_where_there_is_no_terminal():
    lines = show(terminal=False).splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("step 320/3200  10%  return ")
    for name in ("return", "evaluation", "grad norm", "skipped 0", "steps/s", "left"):
        assert name in lines[-1]
    assert lines[-1].endswith("left 0:00")


def test_a_reader_that_reads_no_further_does_not_end_the_program():
    code = (
        "import sys\n"
        "from agents.runner.progress import UnendingConsole\n"
        "console = UnendingConsole(file=sys.stderr)\n"
        "try:\n"
        "    while True:\n"
        "        console.print('a line')\n"
        "except BrokenPipeError:\n"
        "    print('a result')\n"
        "    sys.stderr = None\n"
    )
    line, result, _ = unread(code, "stderr")
    assert (line, result) == ("a line\n", "a result\n")


def test_a_terminal_sees_the_layers():
    text = show(terminal=True)
    for name in ("3,200 of 3,200 steps", "grad norm", "update ratio", "dormant", "trunk.0", "head"):
        assert name in text


def test_the_time_of_evaluations_is_not_that_of_steps():
    run = SimpleNamespace(agent=SimpleNamespace(steps=0), steps=2000)
    progress: Any = Progress(Console(file=io.StringIO()))
    progress.started(run)
    progress._began -= 10.0
    run.agent.steps = 1000
    progress.evaluated(run, Evaluation(np.zeros(1), np.zeros(1), seconds=5.0))
    figures = progress.figures(run)
    assert figures["steps/s"] == "200"
    assert figures["left"] == "0:10"  # with as many evaluations to come


class Poison(Callback):
    """Spoils the rewards of the rollout about to be learned from, twice."""

    def stepped(self, run, transition):
        if run.agent.steps in (4, 36):
            transition.reward[:] = np.nan


def test_one_warning_names_what_was_not_finite():
    lines = show(terminal=False, also=[Poison()]).splitlines()
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == 1
    assert "step 16: loss term 'error', layer 'trunk.0' is not finite" in warnings[0]
    assert "skipped 2" in lines[-1]


class Stop(Callback):
    def stepped(self, run, transition):
        run.stop("that is enough")


def test_why_a_run_was_stopped():
    assert show(terminal=False, also=[Stop()]).splitlines() == ["stopped at step 4: that is enough"]
