"""The logs of a run in TensorBoard, Weights & Biases and trackio, by their own libraries.

Each shows what a `Recorder(..., mirror=show)` writes, row by row: a scalar for each number, named
`table/learner/layer/column`. They are callbacks, to be given beside the Recorder. What a killed run
wrote after its last checkpoint is written again when it is resumed.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.runner.table import Mirror
from agents.runner.train import Callback, Run

NO_SCALARS = ("step", "update", "episode", "seconds")


def scalars(table: str, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a row of a CSV file, each with its whole name."""
    where = "/".join([table, *(row[key] for key in ("learner", "layer") if key in row)])
    for name, value in row.items():
        if isinstance(value, int | float) and math.isfinite(value) and name not in NO_SCALARS:
            yield f"{where}/{name}", float(value)


def together(mirrors: Sequence[Mirror]) -> Mirror | None:
    """One mirror that calls all of them; None without any."""
    if not mirrors:
        return None

    def show(table: str, row: Mapping[str, Any]) -> None:
        for mirror in mirrors:
            mirror(table, row)

    return show


class TensorBoard(Callback):
    """Into the folder `folder`."""

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, rarely wanted

        self._writer_of = SummaryWriter
        self.folder = Path(folder)
        self._writer: Any = None

    def started(self, run: Run) -> None:
        # What a killed run wrote after its last checkpoint is hidden.
        self._writer = self._writer_of(str(self.folder), purge_step=run.agent.steps + 1)

    def show(self, table: str, row: Mapping[str, Any]) -> None:
        """One row of a CSV file."""
        for name, value in scalars(table, row):
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Service(Callback):
    """A run in a service that knows it by an id.

    It is the folder's name and what tells the run from others in folders of that name. It goes
    into checkpoints, so that a run resumed from one goes on where it was.
    """

    def __init__(self, folder: str | Path, project: str, config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.id = f"{self.folder.name}-{secrets.token_hex(4)}"
        self.project = project
        self.config = dict(config)
        self._run: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.id = state["id"]


class Wandb(Service):
    """Into Weights & Biases, by wandb as it is set up: WANDB_MODE=offline keeps it on the disk."""

    def __init__(self, folder: str | Path, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        super().__init__(folder, project, config)
        self._wandb = wandb

    def started(self, run: Run) -> None:
        self._run = self._wandb.init(
            project=self.project,
            name=self.folder.name,
            id=self.id,
            resume="allow",
            dir=str(self.folder),
            settings=self._wandb.Settings(console="off", x_disable_stats=True),
            config=self.config,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def show(self, table: str, row: Mapping[str, Any]) -> None:
        """One row of a CSV file."""
        self._run.log({"step": row["step"], **dict(scalars(table, row))})

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class Trackio(Service):
    """Into trackio's own database: `trackio show` draws it, TRACKIO_DIR says where it lies."""

    def __init__(self, folder: str | Path, project: str, config: Mapping[str, Any]) -> None:
        import trackio

        super().__init__(folder, project, config)
        self._trackio = trackio

    def started(self, run: Run) -> None:
        with contextlib.redirect_stdout(sys.stderr):  # it has much to say
            self._run = self._trackio.init(
                project=self.project,
                name=self.id,
                resume="allow",
                config=self.config,
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def show(self, table: str, row: Mapping[str, Any]) -> None:
        """One row of a CSV file."""
        self._run.log(dict(scalars(table, row)), step=int(row["step"]))

    def close(self) -> None:
        if self._run is not None:
            with contextlib.redirect_stdout(sys.stderr):
                self._trackio.finish()
            self._run = None
