"""Evaluation while an agent trains, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from agents.core.seeding import derived
from agents.runner.evaluate import (
    MAX_EPISODE_STEPS,
    Evaluation,
    check_episodes,
    check_fit,
    check_form,
    evaluate,
)
from agents.runner.train import Callback, Run, check_every
from envs.transition import Transition
from envs.vector import VectorEnv


class Evaluate(Callback):
    """Evaluates every `every` steps (0: never), and on other seeds once the run is finished.

    The last step is left to the final evaluation. With a `target_return` the run ends when an
    evaluation's mean return reaches it. `envs` are stepped for nothing else, those of the training
    are a ValueError; the seeds follow from the run's seed and the step.
    """

    def __init__(
        self,
        envs: VectorEnv,
        every: int = 0,
        episodes: int = 20,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        target_return: float | None = None,
    ) -> None:
        check_form(envs)
        check_every(every)
        check_episodes(episodes, max_episode_steps)
        self.envs = envs
        self.every = every
        self.episodes = episodes
        self.max_episode_steps = max_episode_steps
        self.target_return = target_return
        self.final: Evaluation | None = None
        """The one after the end of a finished run."""

    def started(self, run: Run) -> None:
        if self.envs is run.envs:
            raise ValueError(
                "Evaluate was given the environments of the training, whose episodes it would "
                "break off: make others for it, as by another envs.make(id)"
            )
        check_fit(run.agent, self.envs)
        self.final = None  # a run that goes on has not ended yet

    def stepped(self, run: Run, transition: Transition) -> None:
        if run.passed(self.every) and run.agent.steps < run.steps:
            evaluation = self._evaluate(run, f"evaluation at step {run.agent.steps}")
            if self.target_return is not None and evaluation.mean >= self.target_return:
                run.stop(
                    f"the evaluation's mean return {evaluation.mean:.2f} reached the target "
                    f"{self.target_return:g}"
                )

    def ended(self, run: Run) -> None:
        if run.finished:
            self.final = self._evaluate(run, "final evaluation")

    def _evaluate(self, run: Run, purpose: str) -> Evaluation:
        seed = derived(run.seed, purpose)
        evaluation = evaluate(run.agent, self.envs, self.episodes, seed, self.max_episode_steps)
        run.tell("evaluated", evaluation)
        return evaluation

    def close(self) -> None:
        self.envs.close()

    def state_dict(self) -> dict[str, Any]:
        if self.final is None:
            return {}
        return {name: value for name, value in vars(self.final).items() if name != "seconds"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.final = Evaluation(**state)


class Interrupt(Callback):
    """Ends the run after the step in which Ctrl-C was pressed, so that it can be resumed.

    Pressed again it breaks off at once. Works in the main thread only.
    """

    def __init__(self) -> None:
        self._before: Any = None

    def started(self, run: Run) -> None:
        def on_interrupt(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, self._before)
            run.stop("interrupted", interrupted=True)

        self._before = signal.signal(signal.SIGINT, on_interrupt)

    def close(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
