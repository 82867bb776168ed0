"""A CSV file that grows row by row and can be cut back to where a checkpoint saw it."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from agents.core.files import CheckpointError, locked

Mirror = Callable[[str, Mapping[str, Any]], None]
"""Called with the file's name, without its ending, and a row that was written to it."""


class Table:
    """Numbers are written in full, so that the same run gives the same bytes."""

    def __init__(
        self, path: Path, columns: Sequence[str] | None = None, mirror: Mirror | None = None
    ) -> None:
        self.path = path
        self.mirror = mirror
        self.columns = columns
        """Fixed by the first row if not given."""
        self.offset = 0
        """Bytes written, all of them flushed."""
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Make the file, or cut off what was written after `offset`; nobody else may open it then.

        Raises ValueError where another run writes to it, CheckpointError where rows are missing.
        """
        self._file = open(self.path, "ab")  # noqa: SIM115
        if not locked(self._file.fileno()):
            raise ValueError(f"{self.path} is in use by another run")
        if self._file.tell() < self.offset:
            raise CheckpointError(
                f"{self.path} is shorter than it was at the checkpoint: it cannot be continued"
            )
        self._file.truncate(self.offset)
        if self.columns is not None and not self.offset:
            self._append([self.columns])

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows. What a row lacks and what is nan stays empty.

        Raises ValueError for a name that is not among the columns.
        """
        if not rows:
            return
        if self.columns is None:
            self.columns = list(dict.fromkeys(name for row in rows for name in row))
            self._append([self.columns])
        known = dict.fromkeys(self.columns)
        if unknown := [name for row in rows for name in row if name not in known]:
            raise ValueError(
                f"{unknown[0]!r} is not among the columns of {self.path.name}, which were fixed "
                "when its first row was written: report the same names in every update"
            )
        self._append([[_cell(row.get(name, "")) for name in self.columns] for row in rows])
        if self.mirror is not None:
            for row in rows:
                self.mirror(self.path.stem, row)

    def _append(self, lines: Sequence[Sequence[Any]]) -> None:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        self.offset += self._file.write(text.getvalue().encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # of what is not on the disk `_append` has told
                self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """Where the file ends. What lies before is on the disk when this returns."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return {"offset": self.offset, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes effect when the file is opened."""
        self.offset, self.columns = state["offset"], state["columns"]


def _cell(value: Any) -> Any:
    """What the file is to show; of a float of Python's own that is its repr."""
    if isinstance(value, (float, np.floating)):
        return "" if math.isnan(value) else float(value)
    return value
