"""The loop: one for every agent. What else happens during a run is a callback of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from agents.agent import Agent, Metrics
from agents.core.files import config_to_json, versions
from agents.core.learner import Learner, Step
from agents.core.seeding import derived
from agents.memory import Hindsight
from agents.runner.evaluate import Evaluation, check_fit
from envs.transition import Transition
from envs.vector import VectorEnv


class SkippedWarning(UserWarning):
    """Some of a training's updates were not finite and changed nothing."""


class Callback:
    """Something that watches a run. Derive from this and override the hooks you need.

    The hooks are called in the order of the callbacks. A hook may look at everything in `run`,
    and end it with `run.stop("why")`; what it draws at random it draws from a generator of its own.
    Only those of the class are called, not what was assigned to an instance.
    A callback with a state that must survive `--resume` gives it out and takes it back.

        class StopWhenSolved(Callback):
            def evaluated(self, run, evaluation):
                if evaluation.min >= 475:
                    run.stop("every episode was solved")
    """

    def started(self, run: Run) -> None:
        """Before the first step, of a resumed run too."""

    def learned(self, run: Run, learner: Learner, step: Step) -> None:
        """After every step of an optimiser, and every one that was skipped: keep it quick."""

    def updated(self, run: Run, metrics: Metrics) -> None:
        """After every `agent.learn`, with the agent's own scalars."""

    def stepped(self, run: Run, transition: Transition) -> None:
        """After every step of the environments, and the updates that it made due."""

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        """After every evaluation."""

    def ended(self, run: Run) -> None:
        """After the last step. Not called when an exception ended the run."""

    def close(self) -> None:
        """At the very end, whatever ended the run: release files and displays."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint is to keep: nested dicts and lists of arrays and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Called before `started`."""


class Run:
    """A training run: an agent, its environments, and how far they are."""

    def __init__(
        self,
        agent: Agent,
        envs: VectorEnv,
        steps: int,
        callbacks: Sequence[Callback] = (),
        seed: int | None = None,
    ) -> None:
        check_fit(agent, envs)
        if not isinstance(callbacks, Sequence):
            raise TypeError(f"callbacks is {callbacks!r}: give a list of them, or leave it out")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"the callback {callback!r} is not an instance of a Callback")
        if not isinstance(steps, int | np.integer):
            raise TypeError(f"steps is {steps!r}: use a whole number")
        if steps <= agent.steps:
            raise ValueError(
                f"steps is {steps}: the agent has seen {agent.steps}, and these count too"
            )
        self.agent = agent
        self.envs = envs
        self.steps = steps
        self.callbacks = list(callbacks)
        self.seed = agent.seed if seed is None else seed
        self.fresh_seed = derived(self.seed, f"from {agent.steps}") if agent.steps else self.seed
        """Of the environments and of exploration: another one each time that an agent is trained,
        or it would meet the same episodes again."""
        self.actor = agent.actor(envs.num_envs, explore=True, seed=self.fresh_seed)
        self.previous_steps = 0
        """The agent's steps before the last one of the environments."""
        self.batch: Transition | None = None
        """What `agent.learn` was last given."""
        self.restoring = False
        """Whether it is to go on from what an earlier start of it left, which it may write over."""
        self.stopped = ""
        """Why the run is to end before its steps are done."""
        self.interrupted = False
        """Whether it was told to end in order to be resumed later."""
        self.failed = False
        """Whether that was because its updates failed."""
        introduce(agent, envs)
        agent.plan(steps)
        # A hook that nobody overrides costs nothing.
        self._hooks = {
            hook: [
                getattr(callback, hook)
                for callback in self.callbacks
                if getattr(type(callback), hook) is not getattr(Callback, hook)
            ]
            for hook in ("started", "learned", "updated", "stepped", "evaluated", "ended")
        }
        for learner in agent.learners.values():
            learner.observer = self._observe if self.watched else None

    def stop(self, reason: str, interrupted: bool = False, failed: bool = False) -> None:
        """End the run after this step. The first reason counts."""
        if not self.stopped:
            self.stopped, self.interrupted, self.failed = reason, interrupted or failed, failed

    @property
    def watched(self) -> bool:
        """Whether a callback is told of every step of an optimiser."""
        return bool(self._hooks["learned"])

    @property
    def over(self) -> bool:
        """Whether the loop ends before the next step."""
        return bool(self.stopped) or self.agent.steps >= self.steps

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.over and not (self.interrupted and self.agent.steps < self.steps)

    def passed(self, every: int) -> bool:
        """Whether the last step reached a multiple of `every` steps; never for 0."""
        return every > 0 and self.agent.steps // every > self.previous_steps // every

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of every callback that overrides it."""
        for listener in self._hooks[hook]:
            listener(self, *arguments)

    def _observe(self, learner: Learner, step: Step) -> None:
        for listener in self._hooks["learned"]:
            listener(self, learner, step)

    def to_json(self) -> dict[str, Any]:
        """What config.json says of a run that no script began."""
        return {
            "agent": self.agent.name,
            "env": self.envs.id,
            "env_options": self.envs.options,
            "backend": self.envs.backend,
            "steps": int(self.steps),
            "seed": int(self.seed),
            "num_envs": self.envs.num_envs,
            "config": config_to_json(self.agent.config),
            "versions": versions(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on, the rows of a replay apart."""
        return {
            "agent": self.agent.state_dict(),
            "memory": self.agent.memory.state_dict(),
            "actor": self.actor.state_dict(),
            "envs": self.envs.state_dict(),
            "callbacks": {
                name: state
                for name, callback in self._named().items()
                if (state := callback.state_dict())
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put everything back as `state_dict` saw it."""
        self.agent.load_state_dict(state["agent"])
        self.agent.plan(self.steps)  # which may be more than it was to take then
        self.agent.memory.load_state_dict(state["memory"])
        self.actor.load_state_dict(state["actor"])
        restored = self.envs.load_state_dict(state["envs"])
        if not restored.all():
            self.agent.cut(~restored)
            self.actor.reset(~restored)
        for name, callback in self._named().items():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])

    def _named(self) -> dict[str, Callback]:
        """The callbacks by class name; the second of a class is `Name.2`."""
        named: dict[str, Callback] = {}
        for callback in self.callbacks:
            name = type(callback).__name__
            same = sum(key.split(".")[0] == name for key in named)
            named[f"{name}.{same + 1}" if same else name] = callback
        return named


def introduce(agent: Agent, envs: VectorEnv) -> None:
    """Tell an agent how many environments there are, and a memory that judges goals in hindsight
    how these do.

    Raises ValueError where they do not, and for settings that so many leave no room or no effect.
    """
    agent.check_envs(envs.num_envs)
    if isinstance(agent.memory, Hindsight):
        agent.memory.judge = envs.judge


def check_every(every: int) -> None:
    """Raise ValueError for what can be no number of steps from one time to the next."""
    if every < 0:
        raise ValueError(f"every is {every}: use a number of steps, or 0 for never")


def train(
    agent: Agent,
    envs: VectorEnv,
    steps: int,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    restore: Callable[[Run], None] | None = None,
) -> Run:
    """Train `agent` in `envs` until it has seen `steps` valid steps in all.

    `seed` (the agent's own if None) seeds the environments and exploration, together with the steps
    that the agent has seen before, so that no training repeats another. `restore` puts a run back
    to where it was interrupted, as `Checkpoint.restore` does; one that was stopped for good, or has
    seen `steps` already, is left as it is. Returns the run, which tells why it ended.
    Where no callback watches the updates, a SkippedWarning tells at the end of those of the agent
    that were skipped.

    Raises ValueError for an agent that was made for other spaces, or has seen `steps` before.
    """
    if restore is not None and not callable(restore):
        raise TypeError(f"restore is {restore!r}: give a function, such as a Checkpoint's restore")
    run = Run(agent, envs, steps, callbacks, seed)
    envs.reset(derived(run.fresh_seed, "environment"))
    agent.cut(np.ones(envs.num_envs, bool))  # what an earlier training left unfinished
    try:
        if restore is not None:
            run.restoring = True
            restore(run)
        if run.finished:
            return run
        run.tell("started")
        obs = envs.obs
        while not run.over:
            action, extras = run.actor.act(obs)
            transition, obs = envs.step(action, extras)
            run.actor.reset(transition.over)
            run.previous_steps = agent.steps
            agent.observe(transition)
            for run.batch in agent.memory.batches():
                run.tell("updated", agent.learn(run.batch))
            run.tell("stepped", transition)
        run.tell("ended")
    finally:
        for learner in agent.learners.values():
            learner.observer = None
        with ExitStack() as closing:  # all of them, whichever fails
            for callback in reversed(run.callbacks):
                closing.callback(callback.close)
    if not run.watched:
        _tell_of_skipped(agent)
    return run


def _tell_of_skipped(agent: Agent) -> None:
    """Say what a callback with the hook `learned` would have seen."""
    for name, learner in agent.learners.items():
        if learner.skipped:
            made = learner.updates or "none"
            warnings.warn(
                f"{learner.skipped} updates of {name} were skipped, as not finite, and {made} "
                "made; a Guard keeps the batches and stops such a run",
                SkippedWarning,
                stacklevel=3,
            )
