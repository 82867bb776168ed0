"""Guard: what a run does about steps that are not finite, which the learners have skipped."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agents.core.files import join_state, read_arrays
from agents.core.learner import Learner, Step
from agents.runner import postmortem
from agents.runner.checkpoint import Checkpoint
from agents.runner.registry import check_name
from agents.runner.train import Callback, Run
from envs.transition import Transition

Action = Literal["stop", "rollback"]
KEPT = 3
"""Post-mortems of a run; what goes wrong later mostly does so for the same reason."""
LOWERED = 0.5
"""What a rollback multiplies the learning rate by."""
ROLLBACKS = 3
"""After so many a run that still goes wrong is stopped."""


class Guard(Callback):
    """Leaves a post-mortem of the first skipped steps, and acts after `limit` of them in a row.

    `limit` counts for each learner; 0 means never. To `stop` ends the run so that it can be
    resumed. To roll back puts weights, optimiser, targets and normalisers to the last checkpoint,
    halves the learning rate, and goes on; without a checkpoint, or after three times, it stops.
    While updates fail none is written, but where the run is interrupted.
    """

    def __init__(
        self,
        folder: str | Path,
        limit: int = 10,
        action: Action = "stop",
        checkpoint: Checkpoint | None = None,
    ) -> None:
        if limit < 0:
            raise ValueError(f"limit is {limit}: use 0 or more")
        if action not in ("stop", "rollback"):
            raise ValueError(f"action is {action!r}: use stop or rollback")
        if action == "rollback" and checkpoint is None:
            raise ValueError("a rollback needs the run's Checkpoint: give it as checkpoint=")
        self.folder = Path(folder)
        self.limit = limit
        self.action = action
        self.checkpoint = checkpoint
        self.in_a_row: dict[str, int] = {}
        """Steps of each learner that were skipped since its last good one."""
        self.written = 0
        """Post-mortems."""
        self.rollbacks = 0
        self.gave_up = ""
        """Why it stopped the run, in a line."""
        self._due = ""

    def started(self, run: Run) -> None:
        check_name(run.agent)  # now, not when a post-mortem is written
        self.folder.mkdir(parents=True, exist_ok=True)

    def learned(self, run: Run, learner: Learner, step: Step) -> None:
        if not step.skipped:
            if self.in_a_row:
                self.in_a_row.pop(learner.name, None)
                self._hold()
            return
        count = self.in_a_row[learner.name] = self.in_a_row.get(learner.name, 0) + 1
        self._hold()
        if self.written < KEPT and run.batch is not None:
            postmortem.write(self.folder, run.agent, learner, step, run.batch)
            self.written += 1
        if self.limit and count >= self.limit:
            self._due = f"{count} updates of {learner.name} in a row were not finite, the last in "
            self._due += step.nonfinite

    def stepped(self, run: Run, transition: Transition) -> None:
        if self._due:
            why, self._due = self._due, ""
            self.in_a_row.clear()
            self._hold()
            if self.action == "stop":
                self._give_up(run, why)
            else:
                self._roll_back(run, why)

    def _hold(self) -> None:
        """Keep the way back open while updates fail."""
        if self.checkpoint is not None and self.action == "rollback" and self.limit:
            self.checkpoint.held = bool(self.in_a_row)

    def _give_up(self, run: Run, why: str) -> None:
        self.gave_up = why
        if self.written:
            self.gave_up += f"; to see one again: python scripts/examine.py {self.folder} --replay"
        run.stop(why, failed=True)

    def _roll_back(self, run: Run, why: str) -> None:
        assert self.checkpoint is not None
        name = self.checkpoint.manifest["name"]
        if not name or self.rollbacks == ROLLBACKS:
            none = (
                f"after {ROLLBACKS} rollbacks" if name else "there is no checkpoint to go back to"
            )
            self._give_up(run, f"{why}; {none}")
            return
        path = self.checkpoint.folder / name / "training.safetensors"
        arrays, header = read_arrays(path)
        saved = join_state(arrays, header["state"])["agent"]
        now = run.agent.state_dict()
        # What was lived through since stays: steps, random streams and counters go on.
        saved |= {key: now[key] for key in ("steps", "rng", "predictions", "noise")}
        if "reward_scaler" in saved["parts"]:
            returns = now["parts"]["reward_scaler"]["returns"]
            saved["parts"]["reward_scaler"]["returns"] = returns
        if "traces" in saved:  # of episodes that are over, by other weights
            saved["traces"] = {}
        for learner in run.agent.learners:
            for key in ("updates", "skipped", "env_steps", "planned"):
                saved["parts"][learner][key] = now["parts"][learner][key]
            saved["parts"][learner]["lr_scale"] = now["parts"][learner]["lr_scale"] * LOWERED
        run.agent.load_state_dict(saved)
        self.rollbacks += 1
        print(
            f"{why}: back to the checkpoint of step {name}, learning rate times {LOWERED}",
            file=sys.stderr,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "in_a_row": dict(self.in_a_row),
            "written": self.written,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.in_a_row = dict(state["in_a_row"])
        self.written, self.rollbacks = state["written"], state["rollbacks"]
