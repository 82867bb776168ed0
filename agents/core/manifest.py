"""What a run's last checkpoint says of itself, and where its agent lies.

`agents.runner.checkpoint` writes checkpoints and tells what they are made of.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from agents.core.files import CheckpointError, check_format

Manifest = dict[str, Any]


def read_manifest(folder: str | Path, best: bool = False) -> Manifest | None:
    """What the last checkpoint of a run's folder (or the best) says of itself; None without one.

    Raises CheckpointError when it is not whole.
    """
    folder = Path(folder) / "checkpoints"
    latest = folder / "LATEST"
    if not latest.is_file():
        return _unnamed(folder)
    try:
        name, digest = latest.read_text().split()
    except ValueError:
        raise CheckpointError(f"{latest} is damaged: it should hold a name and a SHA-256") from None
    manifest = _read(folder, name, digest)
    found = manifest["best"] if best else None
    if found is None or found["name"] == name:
        return manifest
    return _read(folder, found["name"], found["sha256"])


def verify_config(folder: Path) -> None:
    """Raise CheckpointError when config.json is not as the last checkpoint of the run saw it."""
    manifest = read_manifest(folder)
    if manifest is not None and manifest["config"] is not None:
        verify(folder / "config.json", manifest["config"])


def agent_file(path: str | Path, best: bool = False) -> Path:
    """The file of the agent in a run's last checkpoint, or in its best by evaluation.

    What is no folder is that file itself. Raises CheckpointError when a folder has none or it was
    changed.
    """
    folder = Path(path)
    if not folder.is_dir():
        return folder
    manifest = read_manifest(folder, best)
    if manifest is None:
        raise CheckpointError(f"{folder} is not a run's folder with a checkpoint in it")
    file = folder / "checkpoints" / manifest["name"] / "agent.safetensors"
    verify(file, manifest["files"][file.name])
    return file


def _unnamed(folder: Path) -> Manifest | None:
    """Of the first checkpoint, which may be complete while there is no LATEST yet to name it."""
    found = list(folder.glob("[0-9]*/manifest.json"))
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(
            f"{folder / 'LATEST'}, which names the last of the checkpoints beside it, is gone: put "
            f"it back, or delete {folder} to begin anew"
        )
    return _read(folder, found[0].parent.name, sha256(found[0]))


def _read(folder: Path, name: str, digest: str) -> Manifest:
    path = folder / name / "manifest.json"
    verify(path, digest)
    manifest: Manifest = json.loads(path.read_bytes())  # as it was written, the digest says
    check_format(path, manifest["format"])
    return manifest


def verify(path: Path, digest: str) -> None:
    """Raise CheckpointError for a file that is missing, or not the one of this SHA-256."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    if sha256(path) != digest:
        raise CheckpointError(f"{path} was changed after it was written: its SHA-256 differs")


def sha256(path: Path) -> str:
    """Of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
