"""A run's folder: its name, who may use it, and what may be put into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.core.files import locked, write_bytes
from agents.runner.arguments import BadInput, bad_input
from agents.runner.results import read_run

FILES = ("config.json", "episodes.csv", "updates.csv", "gradients.csv", "evaluations.csv")
FOLDERS = ("checkpoints", "postmortems", "tensorboard", "wandb")
"""What a run writes."""
ABOUT = ("report.html", "examination.json", "explanation.json", "activation.json")
"""What scripts say of a run where they are not told to write it elsewhere."""


def file_name(env: str) -> str:
    """An environment's id as a part of the name of a file."""
    return re.sub(r"[/:]", "-", env)


def folder_name(agent: str, env: str, seed: int) -> str:
    """What a run's folder is called, and how one is told from another."""
    return f"{agent}-{file_name(env)}-{seed}"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it; remove it if nothing was put in.

    The lock is on the folder itself and leaves nothing behind: the system releases it when the
    process ends, however it ends. Raises BadInput when the folder is in use or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with bad_input():
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    try:
        if not locked(lock):
            raise BadInput(f"{folder} is in use by another process")
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # something is in it
                path.rmdir()
        os.close(lock)


def begin(folder: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Put the config.json of a new run into a folder that is empty, or whose run it replaces.

    Raises BadInput for any other folder, of which nothing is touched.
    """
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        if not (folder / "config.json").exists():
            raise BadInput(
                f"{folder} is not empty, and no run that can be resumed or replaced: it has no "
                "config.json; choose another --out"
            )
        if not overwrite:
            raise BadInput(
                f"{folder} is not empty: give --resume to go on with the run in it, --overwrite "
                "to replace it, or another --out"
            )
        read_run(folder)  # of another program's config.json it says what is missing
    for name in (*FILES[1:], *ABOUT):  # only what belongs to a run: the folder may hold more
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    write_bytes(folder / "config.json", json.dumps(config, indent=2).encode())
