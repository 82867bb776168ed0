"""Checkpoints: a run put on disk so that a run killed at any moment goes on as if it never was.

    checkpoints/LATEST                            names the folder of the last complete one, and
                                                  the SHA-256 of its manifest
    checkpoints/<step>/agent.safetensors          what agent.save writes
    checkpoints/<step>/training.safetensors       the rest: optimisers, random streams, logs, ...
    checkpoints/<step>/manifest.json              format, SHA-256 of each file and of the run's
                                                  config.json, name and SHA-256 of the best,
                                                  segments of the replay
    checkpoints/replay/<start>-<stop>.safetensors rows of a replay, each written once

A checkpoint is complete before LATEST is replaced to name it; nothing that LATEST needs is ever
written to again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from agents.agent import Agent
from agents.core.files import (
    FORMAT,
    CheckpointError,
    join_state,
    locked,
    read_arrays,
    split_state,
    write_arrays,
    write_bytes,
)
from agents.core.manifest import Manifest, read_manifest, sha256, verify
from agents.memory import Replay
from agents.runner.evaluate import Evaluation
from agents.runner.registry import check_name
from agents.runner.results import difference, read_run
from agents.runner.train import Callback, Run, check_every

SAME = ("agent", "env", "env_options", "seed", "num_envs", "config")
"""What of a run's config.json has to be as it was, for the run to go on."""


class Checkpoint(Callback):
    """Writes a checkpoint every `every` steps, at each new best evaluation, and at the end.

    The last one and the best by evaluation are kept. It has to be the last of a run's callbacks,
    so that it saves them as they are after the step. `restore` puts a run back to the last one.
    Without it, checkpoints of another run in the folder are a ValueError; one at work there always.
    """

    def __init__(self, folder: str | Path, every: int = 0) -> None:
        check_every(every)
        self.folder = Path(folder) / "checkpoints"
        self.every = every
        self.manifest: Manifest = {"name": "", "best": None, "replay": []}
        """Of the last checkpoint."""
        self.held = False
        """Whether to wait with the next one, as while updates fail: there may be a way back. What
        is evaluated meanwhile is not the best, since it is not kept."""
        self.evaluation = ""
        self._best: dict[str, Any] | None = None
        self._due = False
        self._agent: Agent | None = None
        self._lock: int | None = None

    def started(self, run: Run) -> None:
        if run.callbacks[-1] is not self:
            raise ValueError("Checkpoint has to be the last callback, to save the others' state")
        check_name(run.agent)  # now, not at the first checkpoint
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        if not locked(self._lock):
            raise ValueError(f"{self.folder} is in use by another run")
        if not run.restoring and self._agent not in (None, run.agent):
            raise ValueError(
                f"this Checkpoint has another agent's in {self.folder}: make a new one"
            )
        self._agent = run.agent
        if not self.manifest["name"] and (self.folder / "LATEST").exists():
            raise ValueError(
                f"{self.folder} holds another run, whose checkpoints would be lost: go on with "
                "that one by restore=, delete it, or choose another folder"
            )

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        self.evaluation = str(evaluation)
        best = -math.inf if self._best is None else self._best["mean_return"]
        if evaluation.mean > best and not self.held:  # never nan
            self._best = {"mean_return": evaluation.mean}
            self._due = True

    def stepped(self, run: Run, transition: Any) -> None:
        self._due |= run.passed(self.every)
        if self._due and not self.held and not run.over:
            self.write(run)

    def ended(self, run: Run) -> None:
        if run.finished or self.manifest["name"] != str(run.agent.steps):
            self.write(run)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, run: Run) -> None:
        """Write a checkpoint of the run as it stands between two steps."""
        name = str(run.agent.steps)
        if name == self.manifest["name"]:
            name += ".end"  # the run was ended without another step: leave the complete one alone
        best = self._best
        if best is not None:
            best.setdefault("name", name)
        partial = self.folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run.agent.save(partial / "agent.safetensors")
        arrays, state = split_state(run.state_dict())
        write_arrays(partial / "training.safetensors", arrays, {"state": state})
        config = self.folder.parent / "config.json"  # a run of the library may have none
        self.manifest = {
            "format": FORMAT,
            "name": name,
            "step": run.agent.steps,
            "finished": run.finished,
            "stopped": run.stopped if run.failed or not run.interrupted else "",
            "evaluation": self.evaluation,
            "best": best and dict(best),
            "files": {path.name: sha256(path) for path in sorted(partial.iterdir())},
            "config": sha256(config) if config.is_file() else None,
            "replay": self._write_rows(run.agent.memory),
        }
        text = json.dumps(self.manifest, indent=2).encode()
        write_bytes(partial / "manifest.json", text)
        digest = hashlib.sha256(text).hexdigest()
        shutil.rmtree(self.folder / name, ignore_errors=True)  # LATEST does not name it
        os.rename(partial, self.folder / name)
        self._name(name, digest)
        if best is not None and best["name"] == name:
            best["sha256"] = digest  # for the checkpoints to come
        self._due = False
        self._tidy()

    def _name(self, name: str, digest: str) -> None:
        """Make a checkpoint the last one, by its name and the SHA-256 of its manifest."""
        write_bytes(self.folder / "LATEST", f"{name} {digest}\n".encode())

    def _write_rows(self, memory: Any) -> list[dict[str, Any]]:
        """Write the rows of a replay that no segment holds yet; the segments still needed."""
        if not isinstance(memory, Replay):
            return []
        oldest = max(0, memory.added - memory.capacity)
        segments = [s for s in self.manifest["replay"] if s["stop"] > oldest]
        start = max(oldest, segments[-1]["stop"] if segments else 0)
        if start < memory.added:
            path = self.folder / "replay" / f"{start}-{memory.added}.safetensors"
            path.parent.mkdir(exist_ok=True)
            write_arrays(path, memory.rows(start, memory.added), {"start": start})
            segment = {"file": path.name, "start": start, "stop": memory.added}
            segments.append(segment | {"sha256": sha256(path)})
        return segments

    def _tidy(self) -> None:
        """Delete what neither the last checkpoint nor the best needs."""
        kept = {self.manifest["name"], (self._best or {}).get("name")}
        for path in self.folder.iterdir():
            if path.name[0].isdigit() and path.name not in kept:
                shutil.rmtree(path)
        rows = {segment["file"] for segment in self.manifest["replay"]}
        for path in (self.folder / "replay").glob("*"):
            if path.name not in rows:
                path.unlink()

    def restore(self, run: Run) -> None:
        """Put the run back to its last checkpoint; leave it at its start if there is none.

        One that ended with its steps done goes on if it is to take more now, and schedules are
        planned for these; one that was stopped for another reason is left as it ended.

        Raises CheckpointError when a piece is missing, truncated or tampered with, and for a run
        that is not the one that the folder's config.json tells of: another agent, environment,
        seed, number of environments or setting.
        """
        manifest = read_manifest(self.folder.parent)
        self._check_same(run, manifest)
        if manifest is None:
            return
        folder = self.folder / manifest["name"]
        for name, digest in manifest["files"].items():
            verify(folder / name, digest)
        memory: Any = run.agent.memory
        try:
            for segment in manifest["replay"]:  # what happened to the rows later is in the state
                path = self.folder / "replay" / segment["file"]
                verify(path, segment["sha256"])
                memory.restore(segment["start"], read_arrays(path)[0])
            arrays, header = read_arrays(folder / "training.safetensors")
            run.load_state_dict(join_state(arrays, header["state"]))
        except CheckpointError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise CheckpointError(f"{folder} does not fit this run: {why}") from None
        self.manifest, self._best = manifest, manifest["best"]
        digest = sha256(folder / "manifest.json")
        if self._best is not None and self._best["name"] == manifest["name"]:
            self._best["sha256"] = digest
        self.evaluation = manifest["evaluation"]
        if not (self.folder / "LATEST").exists():  # before there is a second that it could name
            self._name(manifest["name"], digest)
        if manifest["finished"] and manifest["stopped"]:
            run.stop(manifest["stopped"])

    def _check_same(self, run: Run, manifest: Manifest | None) -> None:
        """Raise CheckpointError for the first thing in which the run is not the folder's."""
        now = run.to_json()
        try:
            begun = read_run(self.folder.parent).config
        except ValueError:  # no Recorder wrote it: the agent's own file tells less
            if manifest is None:
                return
            begun = read_arrays(self.folder / manifest["name"] / "agent.safetensors")[1]
            now["seed"] = run.agent.seed
        names = [name for name in SAME if name in begun]
        if found := difference({n: now[n] for n in names}, {n: begun[n] for n in names}):
            name, value, before = found
            raise CheckpointError(
                f"{name} is {value}, but the run in {self.folder.parent} began with {before}: "
                "leave it so to go on, or choose another folder"
            )
